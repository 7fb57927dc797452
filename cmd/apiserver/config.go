package main

import (
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// The head of a configuration file. Upstream's API server has none; this one holds flags by their names.
const (
	configVersion = "apiserver.keelson.dev/v1alpha1"
	configKind    = "APIServerConfiguration"
)

type configuration struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Flags are values by flag name, without dashes: a string, a number, a truth value, or a list for a flag that may be repeated.
	Flags map[string]any `json:"flags"`
}

// readConfig sets the flags of the file that the command line leaves alone. Unknown fields and flags are errors.
func readConfig(path string, flags *pflag.FlagSet) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var c configuration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return fmt.Errorf("--config %s: %w", path, err)
	}
	if c.APIVersion != configVersion || c.Kind != configKind {
		return fmt.Errorf("--config %s: expected %s of %s, got %q of %q", path, configKind, configVersion, c.Kind, c.APIVersion)
	}
	given := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	for name, value := range c.Flags {
		switch {
		case flags.Lookup(name) == nil || name == "config":
			return fmt.Errorf("--config %s: unknown flag: --%s", path, name)
		case given[name]:
			continue
		}
		values, isList := value.([]any)
		if !isList {
			values = []any{value}
		}
		for _, v := range values {
			switch v.(type) {
			case string, bool, float64, int64:
			default:
				return fmt.Errorf("--config %s: flag %s cannot be %v", path, name, v)
			}
			if err := flags.Set(name, fmt.Sprint(v)); err != nil {
				return fmt.Errorf("--config %s: %w", path, err)
			}
		}
	}
	return nil
}
