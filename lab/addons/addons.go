// Package addons holds the objects that a new cluster starts with, as the YAML files that a user would write, and applies them.
package addons

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"text/template"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

//go:embed *.yaml
var files embed.FS

// fieldManager owns the fields that addons set.
const fieldManager = "keelson"

// DNS is what the coredns addon is told.
type DNS struct {
	Domain, DNSAddress, Image string
	Replicas                  int
}

// Demo is what the demo addon is told.
type Demo struct{ Image string }

// Apply applies the addon of that name, server-side, with values for its placeholders. Applying twice changes nothing.
func Apply(ctx context.Context, client dynamic.Interface, name string, values any) error {
	objects, err := Objects(name, values)
	if err != nil {
		return err
	}
	for _, object := range objects {
		kind := object.GroupVersionKind()
		plural, _ := meta.UnsafeGuessKindToResource(kind)
		var target dynamic.ResourceInterface = client.Resource(plural)
		if namespace := object.GetNamespace(); namespace != "" {
			target = client.Resource(plural).Namespace(namespace)
		}
		_, err := target.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		if err != nil {
			return fmt.Errorf("addon %s: apply %s %s: %w", name, kind.Kind, object.GetName(), err)
		}
	}
	return nil
}

// Objects returns what the addon consists of.
func Objects(name string, values any) ([]*unstructured.Unstructured, error) {
	parsed, err := template.ParseFS(files, name+".yaml")
	if err != nil {
		return nil, fmt.Errorf("addon %s: %w", name, err)
	}
	var text bytes.Buffer
	if err := parsed.Execute(&text, values); err != nil {
		return nil, fmt.Errorf("addon %s: %w", name, err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(&text, 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("addon %s: %w", name, err)
		}
		objects = append(objects, object)
	}
}
