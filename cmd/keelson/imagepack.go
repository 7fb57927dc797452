package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"keelson.dev/lab/images"
)

// imagePackCommand packs folders into images: Keelson's way to make an image on a machine that has no other.
func imagePackCommand() *cobra.Command {
	var layout string
	command := &cobra.Command{
		Use:   "pack SPECS.json",
		Short: "Pack files into images of an OCI layout folder; the file lists ref, files, entrypoint, cmd, env, user, workingDir, ports",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read image list: %w", err)
			}
			var specs []images.Spec
			if err := json.Unmarshal(data, &specs); err != nil {
				return fmt.Errorf("read image list %s: %w", args[0], err)
			}
			for _, spec := range specs {
				if err := images.AddToLayout(layout, spec); err != nil {
					return err
				}
				fmt.Println(spec.Ref)
			}
			return nil
		},
	}
	command.Flags().StringVar(&layout, "layout", "images", "folder of the OCI layout, made if absent")
	return command
}
