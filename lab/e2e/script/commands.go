package script

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// commands are what scripts have beyond testscript's own.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"kubectl":  runKubectl,
	"until":    until,
	"succeeds": succeeds,
	"http":     httpGet,
	"forward":  forward,
	"expand":   expand,
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

// lag is how long a server's cache may be behind what the server has answered, on a machine that is kept busy.
const lag = 20 * time.Second

// runKubectl runs kubectl. Its "wait", until 1.34, reads the server's cache and gives up where that does not have yet what was made a
// moment before: it is begun again then.
func runKubectl(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) == 0 || args[0] != "wait" {
		program("kubectl")(ts, negate, args)
		return
	}
	var failed error
	_ = within(lag, func(context.Context) error {
		failed = ts.Exec("kubectl", args...)
		if failed != nil && strings.Contains(ts.ReadFile("stderr"), "(NotFound)") {
			return failed
		}
		return nil // done, or failed for good
	})
	if failed != nil {
		ts.Fatalf("kubectl %s: %v", strings.Join(args, " "), failed)
	}
}

// kubectl is the script's kubectl, for what needs its output while it runs.
func kubectl(ctx context.Context, ts *testscript.TestScript, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, filepath.Join(ts.Getenv("HOME"), ".bin", "kubectl"), args...)
	command.Dir = ts.MkAbs(".")
	command.Env = []string{"KUBECONFIG=" + ts.Getenv("KUBECONFIG"), "HOME=" + ts.Getenv("HOME"), "PATH=" + ts.Getenv("PATH")}
	return command
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
		output, _ := kubectl(ctx, ts, args[1:]...).CombinedOutput()
		if wanted.Match(output) == negate {
			return fmt.Errorf("kubectl %s: want %q (negated: %t), got:\n%s", strings.Join(args[1:], " "), args[0], negate, output)
		}
		return nil
	})
}

// succeeds repeats a program until it succeeds: succeeds PROGRAM ARGS...
func succeeds(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) == 0 {
		ts.Fatalf("usage: succeeds PROGRAM ARGS...")
	}
	eventually(ts, func(context.Context) error { return ts.Exec(args[0], args[1:]...) })
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
	run := kubectl(ctx, ts, "port-forward", args[0], ":"+args[1])
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

// expand replaces $NAME in files by the script's variables: expand FILE...
func expand(ts *testscript.TestScript, negate bool, args []string) {
	if negate || len(args) == 0 {
		ts.Fatalf("usage: expand FILE...")
	}
	for _, file := range args {
		ts.Check(ts.Exec("sh", "-c", `sed "s/\$NS/$NS/g" "$0" >"$0.new" && mv "$0.new" "$0"`, file))
	}
}
