//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
)

// patience is how long a script waits for what the cluster does by itself.
const patience = 90 * time.Second

// commands are what scripts have beyond testscript's own.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"kubectl": program("kubectl"),
	"keelson": program("keelson"),
	"until":   until,
	"http":    httpGet,
	"forward": forward,
	"strike":  strike,
	"save":    save,
	"expand":  expand,
}

// program runs a program and checks whether it succeeds.
func program(name string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, negate bool, args []string) {
		err := ts.Exec(name, args...)
		if err != nil && !negate {
			ts.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
		}
		if err == nil && negate {
			ts.Fatalf("%s %s: succeeded unexpectedly", name, strings.Join(args, " "))
		}
	}
}

// until repeats a kubectl command until it prints what the pattern matches: until PATTERN KUBECTL-ARGS...
// Negated, until what it prints matches no more.
func until(ts *testscript.TestScript, negate bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until PATTERN KUBECTL-ARGS...")
	}
	wanted, err := regexp.Compile(`(?m)` + args[0])
	ts.Check(err)
	eventually(ts, func(ctx context.Context) error {
		run := exec.CommandContext(ctx, filepath.Join(ts.Getenv("HOME"), ".bin", "kubectl"), args[1:]...)
		run.Env = []string{"KUBECONFIG=" + kubeconfig(), "HOME=" + ts.Getenv("HOME"), "PATH=" + ts.Getenv("PATH")}
		output, _ := run.CombinedOutput()
		if wanted.Match(output) == negate {
			return fmt.Errorf("kubectl %s: want %q (negated: %t), got:\n%s", strings.Join(args[1:], " "), args[0], negate, output)
		}
		return nil
	})
}

// httpGet asks a URL from this machine until the answer matches: http URL PATTERN
func httpGet(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) != 2 {
		ts.Fatalf("usage: http URL PATTERN")
	}
	wanted, err := regexp.Compile(args[1])
	ts.Check(err)
	eventually(ts, func(ctx context.Context) error { return answers(ctx, args[0], wanted) })
}

func answers(ctx context.Context, url string, wanted *regexp.Regexp) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if !wanted.Match(body) {
		return fmt.Errorf("GET %s: want %q, got %s: %s", url, wanted, response.Status, body)
	}
	return nil
}

// forward opens kubectl port-forward to a port of a target and asks through it: forward TARGET PORT PATTERN
func forward(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) != 3 {
		ts.Fatalf("usage: forward TARGET PORT PATTERN")
	}
	wanted, err := regexp.Compile(args[2])
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	run := exec.CommandContext(ctx, filepath.Join(ts.Getenv("HOME"), ".bin", "kubectl"), "port-forward", args[0], ":"+args[1])
	run.Env = []string{"KUBECONFIG=" + kubeconfig(), "HOME=" + ts.Getenv("HOME"), "PATH=" + ts.Getenv("PATH")}
	stdout, err := run.StdoutPipe()
	ts.Check(err)
	ts.Check(run.Start())
	defer func() {
		cancel()
		_ = run.Wait() // it has been killed
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	ts.Check(err)
	local, _, found := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " ->")
	if !found {
		ts.Fatalf("port-forward says %q", line)
	}
	for range 3 { // one connection after the other over one tunnel
		ts.Check(answers(ctx, "http://"+local+"/", wanted))
	}
}

// strike kills a process of a node whose command line holds a text: strike NODE TEXT
func strike(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) != 2 {
		ts.Fatalf("usage: strike NODE TEXT")
	}
	ts.Check(killInNode(args[0], args[1]))
}

// save writes the toolbox image under another name into an archive, as docker save does: save REFERENCE FILE
func save(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) != 2 {
		ts.Fatalf("usage: save REFERENCE FILE")
	}
	tag, err := name.NewTag(args[0])
	ts.Check(err)
	image, err := bundled("registry.keelson.dev/toolbox:1")
	ts.Check(err)
	ts.Check(tarball.WriteToFile(ts.MkAbs(args[1]), tag, image))
}

// bundled finds an image in the OCI layout beside the binary.
func bundled(reference string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(filepath.Join(filepath.Dir(keelson), "images"))
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, entry := range manifest.Manifests {
		for _, value := range entry.Annotations {
			if value == reference {
				return index.Image(entry.Digest)
			}
		}
	}
	return nil, fmt.Errorf("no image %s beside %s", reference, keelson)
}

// expand replaces $NAME in files by the script's variables: expand FILE...
func expand(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, file := range args {
		ts.Check(ts.Exec("sh", "-c", `sed "s/\$NS/$NS/g" "$0" >"$0.new" && mv "$0.new" "$0"`, file))
	}
}

// eventually repeats what fails until it succeeds or patience ends.
func eventually(ts *testscript.TestScript, try func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last := errors.New("not tried")
	for ctx.Err() == nil {
		if err := try(ctx); err == nil {
			return
		} else if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	ts.Fatalf("not within %s: %v", patience, last)
}
