package bench

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Main is the main function of a benchmark: run gets the command line without the program's name, and a context that ends with SIGINT or
// SIGTERM. An error is printed, and the process ends with status 1.
func Main(run func(ctx context.Context, args []string) error) {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

// Order is the order of what is compared in a round: turned round in every other one, so that noise of the machine meets all.
func Order(round int, compared []string) []string {
	order := slices.Clone(compared)
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// Pause waits; the error is the context's if that ends before.
func Pause(ctx context.Context, long time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(long):
		return nil
	}
}
