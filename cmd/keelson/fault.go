package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"keelson.dev/lab/cluster"
)

func faultCommand(name *string) *cobra.Command {
	var long time.Duration
	command := &cobra.Command{Use: "fault", Short: "Break something on purpose, and undo it"}
	command.PersistentFlags().DurationVar(&long, "for", 0, "undo it after so long; 0: leave it until keelson fault undo")
	partition, loss, delay := &cluster.Fault{Kind: cluster.Partition}, &cluster.Fault{Kind: cluster.Loss}, &cluster.Fault{Kind: cluster.Delay}
	cut := breakCommand(name, &long, partition, "Cut nodes off from others; the machine still reaches all")
	cut.Flags().StringSliceVar(&partition.From, "from", nil, "the other side (default: all other nodes)")
	lossy := breakCommand(name, &long, loss, "Lose frames to and from nodes")
	lossy.Flags().IntVar(&loss.Percent, "percent", 20, "how many of a hundred")
	slow := breakCommand(name, &long, delay, "Delay frames to nodes")
	slow.Flags().DurationVar(&delay.Delay, "by", 100*time.Millisecond, "how long")
	disk := &cluster.Fault{Kind: cluster.SlowDisk}
	slowDisk := breakCommand(name, &long, disk, "Have nodes' disks take few writes a second")
	slowDisk.Flags().IntVar(&disk.Writes, "writes", 20, "how many")
	command.AddCommand(
		cut, lossy, slow, slowDisk,
		breakCommand(name, &long, &cluster.Fault{Kind: cluster.Kill}, "Cut nodes' power"),
		breakCommand(name, &long, &cluster.Fault{Kind: cluster.Freeze}, "Stop every process of nodes where it is"),
		faultRandomCommand(name, &long), faultListCommand(name),
		&cobra.Command{
			Use: "undo", Short: "Mend all that was broken on purpose", Args: cobra.NoArgs,
			RunE: func(command *cobra.Command, _ []string) error {
				return withCluster(*name, func(c *cluster.Cluster) error { return c.Undo(command.Context()) })
			},
		},
	)
	return command
}

func breakCommand(name *string, long *time.Duration, fault *cluster.Fault, short string) *cobra.Command {
	return &cobra.Command{
		Use: fault.Kind + " NODE [NODE...]", Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			fault.Nodes = args
			ctx := command.Context()
			if err := withCluster(*name, func(c *cluster.Cluster) error { return c.Break(ctx, *fault) }); err != nil || *long == 0 {
				return err
			}
			select { // without the lock: others may look on, and undo it earlier
			case <-ctx.Done():
			case <-time.After(*long):
			}
			return withCluster(*name, func(c *cluster.Cluster) error { return c.Undo(context.WithoutCancel(ctx)) })
		},
	}
}

func faultRandomCommand(name *string, long *time.Duration) *cobra.Command {
	var (
		seed  uint64
		every time.Duration
	)
	command := &cobra.Command{
		Use: "random", Short: "Break one thing after the other, the same ones for the same seed", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx := command.Context()
			if *long > 0 {
				bounded, cancel := context.WithTimeout(ctx, *long)
				defer cancel()
				ctx = bounded
			}
			return withCluster(*name, func(c *cluster.Cluster) error {
				return c.Plague(ctx, seed, every, clock.RealClock{}, func(f cluster.Fault) {
					fmt.Printf("%s  %s\n", time.Now().Format(time.TimeOnly), f)
				})
			})
		},
	}
	command.Flags().Uint64Var(&seed, "seed", 1, "where the choice comes from")
	command.Flags().DurationVar(&every, "every", 15*time.Second, "how long each lasts, and the pause after it")
	return command
}

func faultListCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List what is broken on purpose", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return viewCluster(*name, func(c *cluster.Cluster) error {
				for _, f := range c.Faults {
					fmt.Println(f)
				}
				return nil
			})
		},
	}
}
