package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	serverPort  = 8080
	requestSize = 64 // bytes, of an answer too
	// patience is how long a request may take. A lost packet is sent again after a second.
	patience = 10 * time.Second
)

// order says how to ask: so many clients at once, each some Service at a time.
type order struct {
	Services []string
	Clients  int
	Long     time.Duration
}

// rate is what requests have achieved; P50 and P99 are milliseconds.
type rate struct{ PerSecond, P50, P99 float64 }

// serve sends back what it gets, until ctx ends.
func serve(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", fmt.Sprintf(":%d", serverPort))
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = l.Close() }) // it fails only if it is closed
	for {
		c, err := l.Accept()
		if err != nil {
			return ctx.Err()
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // the client goes when it likes
		}()
	}
}

// ask follows the orders on stdin.
func ask(ctx context.Context) error {
	orders, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return err
		}
		kept, err := o.measure(ctx, o.keep)
		if err != nil {
			return fmt.Errorf("kept connections: %w", err)
		}
		opened, err := o.measure(ctx, func(ctx context.Context, note func(time.Time)) error {
			for ctx.Err() == nil {
				began := time.Now()
				if err := o.one(); err != nil {
					return err
				}
				note(began)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("new connections: %w", err)
		}
		if err := answers.Encode([2]rate{kept, opened}); err != nil {
			return err
		}
	}
}

// measure lets all clients work for as long as the order says. note counts a request that began then and has just ended.
func (o order) measure(ctx context.Context, client func(ctx context.Context, note func(began time.Time)) error) (rate, error) {
	bounded, cancel := context.WithTimeout(ctx, o.Long)
	defer cancel()
	took := make([][]time.Duration, o.Clients)
	group, groupCtx := errgroup.WithContext(bounded)
	began := time.Now()
	for i := range took {
		group.Go(func() error {
			return client(groupCtx, func(began time.Time) { took[i] = append(took[i], time.Since(began)) })
		})
	}
	err := group.Wait()
	all, seconds := slices.Concat(took...), time.Since(began).Seconds()
	if err != nil {
		return rate{}, fmt.Errorf("after %d requests: %w", len(all), err)
	}
	if len(all) == 0 {
		return rate{}, fmt.Errorf("no request was answered within %s", o.Long)
	}
	slices.Sort(all)
	return rate{float64(len(all)) / seconds, milliseconds(all[len(all)/2]), milliseconds(all[len(all)*99/100])}, nil
}

func (o order) dial() (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", o.Services[rand.IntN(len(o.Services))], patience) //nolint:noctx // has a timeout
	if err != nil {
		return nil, err
	}
	tcp := c.(*net.TCPConn)
	return tcp, tcp.SetLinger(0) // a port is free at once: new connections would run out of them
}

func exchange(c *net.TCPConn, buffer []byte) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write(buffer); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buffer)
	return err
}

// keep sends requests on one connection.
func (o order) keep(ctx context.Context, note func(time.Time)) error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	buffer := make([]byte, requestSize)
	for ctx.Err() == nil {
		began := time.Now()
		if err := exchange(c, buffer); err != nil {
			return err
		}
		note(began)
	}
	return nil
}

// one sends a request on a connection of its own.
func (o order) one() error {
	c, err := o.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	return exchange(c, make([]byte, requestSize))
}
