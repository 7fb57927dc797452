// Command demo is the web program that a new cluster runs: it tells which pod on which node answered, and can be told to fail its
// health check, so that people can watch a cluster heal. `demo get URL [HOST]` is its client.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

// drain is how long requests in flight may take after SIGTERM.
const drain = 5 * time.Second

// app is the state of one replica.
type app struct {
	pod, node string
	sick      atomic.Bool
	served    atomic.Int64
}

func main() {
	if args := append(os.Args[1:], ""); len(args) > 2 && args[0] == "get" { // without a HOST it is the URL's
		if err := get(args[1], args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	hostname, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	a := &app{pod: envOr("POD_NAME", hostname), node: envOr("NODE_NAME", "unknown")}
	server := &http.Server{Addr: ":" + envOr("PORT", "8080"), Handler: a.handler(), ReadHeaderTimeout: 5 * time.Second}
	drained := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(drained)
		bounded, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		if err := server.Shutdown(bounded); err != nil {
			log.Printf("shut down: %v", err)
		}
	})
	log.Printf("demo %s on node %s listens on %s", a.pod, a.node, server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-drained // it returns as soon as nobody can come in
}

// get prints what a URL answers, asked by another name of the host if one is given: the images of a lab hold no curl.
func get(url, host string) error {
	client := &http.Client{Timeout: drain}
	request, err := http.NewRequest(http.MethodGet, url, nil) //nolint:noctx // bounded by the client's timeout
	if err != nil {
		return err
	}
	request.Host = host
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "pod %s on node %s, request %d\n", a.pod, a.node, a.served.Add(1))
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if a.sick.Load() {
			http.Error(w, "told to be sick", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("POST /sick", a.be(true))
	mux.HandleFunc("POST /well", a.be(false))
	return mux
}

// be sets what /healthz answers from now on.
func (a *app) be(sick bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		a.sick.Store(sick)
		fmt.Fprintf(w, "pod %s: sick=%t\n", a.pod, sick)
	}
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
