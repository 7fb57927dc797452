package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson.dev/internal/kubeconfig"
	"keelson.dev/lab/cluster"
	"keelson.dev/lab/snapshot"
)

func snapshotCommand(name *string) *cobra.Command {
	command := &cobra.Command{Use: "snapshot", Short: "Keep a cluster in a file, bring it back from one, and see what changed"}
	command.AddCommand(snapshotSaveCommand(name), snapshotRestoreCommand(name), snapshotListCommand(), snapshotDiffCommand(name))
	return command
}

func snapshotSaveCommand(name *string) *cobra.Command {
	var images bool
	command := &cobra.Command{
		Use: "save [FILE]", Short: "Save objects, keys and local volumes, all of one moment; it holds secrets", Args: cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return withCluster(*name, func(c *cluster.Cluster) error {
				file, still, err := c.SaveSnapshot(command.Context(), append(args, "")[0], images)
				if err != nil {
					return err
				}
				fmt.Println(file)
				fmt.Fprintf(os.Stderr, "pods stood still for %.2f s\n", still.Seconds())
				return nil
			})
		},
	}
	command.Flags().BoolVar(&images, "images", false, "save the machine's images too, for another machine; otherwise only their names")
	return command
}

func snapshotRestoreCommand(name *string) *cobra.Command {
	options := cluster.Options{Timeout: 5 * time.Minute, Kubeconfig: kubeconfig.UserPath()}
	command := &cobra.Command{
		Use: "restore SNAPSHOT", Short: "Replace the cluster, or make a new one (keelson --name NEW snapshot restore ...)", Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			if err := fill(&options, *name); err != nil {
				return err
			}
			file, err := cluster.FindSnapshot(args[0])
			if err != nil {
				return err
			}
			c, err := cluster.Restore(command.Context(), file, options)
			return isUp(options, c, err)
		},
	}
	addServingFlags(command.Flags(), &options)
	return command
}

func snapshotListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the snapshots of this machine", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			files, err := cluster.Snapshots()
			if err != nil {
				return err
			}
			table := newTable(os.Stdout)
			fmt.Fprintln(table, "SNAPSHOT\tCLUSTER\tTAKEN\tREVISION\tOBJECTS\tSIZE\tHOLDS")
			var broken error
			for _, file := range files {
				s, err := snapshot.Open(file)
				if err != nil {
					broken = errors.Join(broken, err)
					continue
				}
				holds := "objects, keys"
				if s.State != nil {
					holds += ", volumes"
				}
				if s.WithImages {
					holds += ", images"
				}
				info, err := os.Stat(file)
				if err != nil {
					return err
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%.1f MB\t%s\n", strings.TrimSuffix(filepath.Base(file), snapshot.Suffix), s.Cluster,
					s.Taken.Format(time.DateTime), s.Revision, s.Objects, float64(info.Size())/1e6, holds)
				s.Close()
			}
			return errors.Join(table.Flush(), broken)
		},
	}
}

func snapshotDiffCommand(name *string) *cobra.Command {
	var (
		all    bool
		output string
	)
	command := &cobra.Command{
		Use: "diff SNAPSHOT [SNAPSHOT]", Short: "Show what became of the objects of a snapshot, in another or in the cluster", Args: cobra.RangeArgs(1, 2),
		RunE: func(command *cobra.Command, args []string) error {
			bundle, err := bundleDir()
			if err != nil {
				return err
			}
			files := []string{"", ""}
			for i, arg := range args {
				if files[i], err = cluster.FindSnapshot(arg); err != nil {
					return err
				}
			}
			changes, err := cluster.DiffSnapshots(command.Context(), *name, bundle, files[0], files[1], all)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(changes)
			}
			for _, change := range changes {
				fmt.Println(change.Sign, change.Object)
				for _, field := range change.Fields {
					fmt.Println("   ", field)
				}
			}
			return nil
		},
	}
	command.Flags().BoolVar(&all, "all", false, "show also what changes all the time: events, leases, heartbeats")
	outputFlag(command, &output)
	return command
}

// outputFlag lets a command print JSON.
func outputFlag(command *cobra.Command, output *string) {
	command.Flags().StringVarP(output, "output", "o", "", "json, for programs")
	command.PreRunE = func(*cobra.Command, []string) error {
		if *output != "" && *output != "json" {
			return fmt.Errorf("--output %s: only json is known", *output)
		}
		return nil
	}
}

// steps tells what is being done, and when.
func steps() func(format string, args ...any) {
	started := time.Now()
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.2fs  %s\n", time.Since(started).Seconds(), fmt.Sprintf(format, args...))
	}
}
