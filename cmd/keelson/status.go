package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keelson.dev/lab/cluster"
)

func statusCommand(name *string) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "status", Short: "Show the health of a cluster at a glance", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				status, err := c.Status(command.Context())
				if err != nil {
					return err
				}
				if output == "json" {
					return printJSON(status)
				}
				fmt.Printf("cluster %s\napi     %s, %s\n", status.Name, status.Server, status.API)
				fmt.Printf("nodes   %d of %d Ready\npods    %d of %d Running\n", status.NodesReady, len(c.Members), status.PodsRunning, status.Pods)
				fmt.Printf("etcd    etcdctl %s\n\n", strings.Join(status.EtcdFlags, " "))
				return printNodes(status.Nodes)
			})
		},
	}
	outputFlag(command, &output)
	return command
}

func printNodes(nodes []cluster.NodeStatus) error {
	table := newTable(os.Stdout)
	fmt.Fprintln(table, "NODE\tROLE\tADDRESS\tPOWER")
	for _, n := range nodes {
		if n.Address == "" {
			n.Address = fmt.Sprintf("%d nodes", n.Count)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", n.Name, n.Role, n.Address, n.Power)
	}
	return table.Flush()
}

// newTable lines up columns that tabs divide.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 3, ' ', 0) }

func printJSON(value any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func doctorCommand(name *string) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use: "doctor", Short: "Check the machine and the cluster, and say what to do", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			bundle, err := bundleDir()
			if err != nil {
				return err
			}
			findings := cluster.Examine(command.Context(), *name, bundle)
			problems := 0
			for _, f := range findings {
				if f.Level == cluster.Problem {
					problems++
				}
			}
			if output == "json" {
				err = printJSON(findings)
			} else {
				table := newTable(os.Stdout)
				for _, f := range findings {
					fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.Check, f.Message)
				}
				err = table.Flush()
			}
			if err == nil && problems > 0 {
				err = fmt.Errorf("%d problems found", problems)
			}
			return err
		},
	}
	outputFlag(command, &output)
	return command
}
