// Command socketproxy stands in for the one mode of sig-storage's hostpathplugin that tests of DRA and CSI drivers use: a driver in the
// test process serves a Unix socket inside a pod. Each connection to --endpoint is joined with one to --proxy-endpoint, over which
// the test has connected from outside.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
)

func main() {
	endpoint := flag.String("endpoint", "", "path of the Unix socket")
	proxy := flag.String("proxy-endpoint", "", "tcp://ADDRESS at which the other side connects")
	flag.Int("v", 0, "accepted and without effect")
	flag.Parse()
	if err := run(strings.TrimPrefix(*endpoint, "unix://"), strings.TrimPrefix(*proxy, "tcp://")); err != nil {
		fmt.Fprintln(os.Stderr, "socketproxy:", err)
		os.Exit(1)
	}
}

func run(endpoint, proxy string) error {
	if endpoint == "" || proxy == "" {
		return errors.New("only the proxy mode is there: --endpoint and --proxy-endpoint are required")
	}
	if err := os.Remove(endpoint); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	clients, err := net.Listen("unix", endpoint)
	if err != nil {
		return err
	}
	defer clients.Close()
	servers, err := net.Listen("tcp", proxy)
	if err != nil {
		return err
	}
	defer servers.Close()
	for {
		client, err := clients.Accept()
		if err != nil {
			return err
		}
		server, err := servers.Accept()
		if err != nil {
			return err
		}
		go join(client, server)
	}
}

// join copies both ways until one side ends.
func join(a, b net.Conn) {
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, _ = io.Copy(pair[0], pair[1]) // the end of either side ends both
			done <- struct{}{}
		}()
	}
	<-done
	a.Close()
	b.Close()
}
