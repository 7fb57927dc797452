package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/proxy"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// The runtime streams over SPDY, and over the old WebSocket protocols up to version 4. Clients of today send version 5, which
// can say that standard input has ended, or tunnel SPDY through a WebSocket. So:
//
//	exec, attach   v5.channel.k8s.io              → translated to SPDY
//	portForward    SPDY/3.1+portforward.k8s.io    → the tunnelled SPDY is unwrapped
//	all            SPDY, older WebSocket          → passed through as it is

// dialTimeout is generous for a listener on the same machine.
const dialTimeout = 10 * time.Second

// runtimeTransport reaches the runtime's streaming server, which listens on loopback: never through a proxy.
func runtimeTransport() *http.Transport {
	return &http.Transport{DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext}
}

type streams struct{ stdin, stdout, stderr, tty bool }

// requestedStreams reads the parameters that an API server sends to a kubelet.
func requestedStreams(r *http.Request) (streams, error) {
	set := func(names ...string) bool {
		for _, name := range names {
			if v := r.FormValue(name); v == "1" || v == "true" {
				return true
			}
		}
		return false
	}
	s := streams{stdin: set("input", "stdin"), stdout: set("output", "stdout"), stderr: set("error", "stderr"), tty: set("tty")}
	if s.tty {
		s.stderr = false // a terminal has one output
	}
	if !s.stdin && !s.stdout && !s.stderr {
		return s, fmt.Errorf("you must specify at least 1 of stdin, stdout, stderr")
	}
	return s, nil
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	s.inContainer(w, r, func(ctx context.Context, id string, want streams) (string, error) {
		answer, err := s.cfg.Runtime.Exec(ctx, &runtimeapi.ExecRequest{
			ContainerId: id, Cmd: r.Form["command"], Tty: want.tty, Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr,
		})
		return answer.GetUrl(), err
	})
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	s.inContainer(w, r, func(ctx context.Context, id string, want streams) (string, error) {
		answer, err := s.cfg.Runtime.Attach(ctx, &runtimeapi.AttachRequest{
			ContainerId: id, Tty: want.tty, Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr,
		})
		return answer.GetUrl(), err
	})
}

// inContainer connects the client with what the runtime opens in a container.
func (s *Server) inContainer(w http.ResponseWriter, r *http.Request, open func(ctx context.Context, id string, want streams) (url string, err error)) {
	want, err := requestedStreams(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, _, err := s.cfg.Pods.ContainerID(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), false)
	if err != nil {
		writeError(w, err)
		return
	}
	url, err := open(r.Context(), id, want)
	if err != nil {
		writeError(w, err)
		return
	}
	s.remoteCommand(w, r, url, want)
}

func (s *Server) remoteCommand(w http.ResponseWriter, r *http.Request, location string, want streams) {
	target, err := url.Parse(location)
	if err != nil {
		writeError(w, fmt.Errorf("runtime's streaming address: %w", err))
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		options := apiproxy.Options{Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr, Tty: want.tty}
		apiproxy.NewStreamTranslatorHandler(target, runtimeTransport(), 0, options).ServeHTTP(w, r)
		return
	}
	passThrough(target).ServeHTTP(w, r)
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	id, err := s.cfg.Pods.SandboxID(r.Context(), r.PathValue("namespace"), r.PathValue("pod"))
	if err != nil {
		writeError(w, err)
		return
	}
	// Only the old WebSocket protocol names its ports up front.
	var ports []int32
	if wsstream.IsWebSocketRequest(r) && !wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		for _, text := range r.URL.Query()["port"] {
			port, err := strconv.ParseUint(text, 10, 16)
			if err != nil || port == 0 {
				http.Error(w, fmt.Sprintf("invalid port %q", text), http.StatusBadRequest)
				return
			}
			ports = append(ports, int32(port))
		}
	}
	answer, err := s.cfg.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: id, Port: ports})
	if err != nil {
		writeError(w, err)
		return
	}
	target, err := url.Parse(answer.Url)
	if err != nil {
		writeError(w, fmt.Errorf("runtime's streaming address: %w", err))
		return
	}
	handler := passThrough(target)
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		handler = apiproxy.NewTunnelingHandler(handler)
	}
	handler.ServeHTTP(w, r)
}

// passThrough hijacks the connection and copies bytes both ways.
func passThrough(target *url.URL) http.Handler {
	handler := proxy.NewUpgradeAwareHandler(target, runtimeTransport(), false, true, responder{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !httpstream.IsUpgradeRequest(r) {
			http.Error(w, "you must specify an upgrade to SPDY or WebSocket", http.StatusBadRequest)
			return
		}
		handler.ServeHTTP(w, r)
	})
}

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) { writeError(w, err) }

// run executes a command and answers with what it printed, for tools that cannot stream.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id, _, err := s.cfg.Pods.ContainerID(r.Context(), r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container"), false)
	if err != nil {
		writeError(w, err)
		return
	}
	command := fields(r.FormValue("cmd"))
	if len(command) == 0 {
		http.Error(w, "cmd is empty", http.StatusBadRequest)
		return
	}
	answer, err := s.cfg.Runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command})
	if err != nil {
		writeError(w, err)
		return
	}
	if answer.ExitCode != 0 {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = w.Write(append(answer.Stdout, answer.Stderr...)) // the client has gone if this fails
}

// writeError answers with the status that an error carries.
func writeError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	var status apierrors.APIStatus
	switch {
	case asStatus(err, &status):
		code = int(status.Status().Code)
	default:
		code = codeOf(err, code)
	}
	http.Error(w, err.Error(), code)
}
