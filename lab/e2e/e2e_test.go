//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"keelson.dev/lab/e2e/script"
)

var (
	clusterName = flag.String("cluster", "ci", "name of the cluster that the tests make and remove")
	keep        = flag.Bool("keep", false, "use the cluster if it is there, and leave it running")
)

// keelson is the binary under test.
var keelson string

// sideBySide is how many scripts run at once. They wait for the cluster most of the time, so they are more than the cores are.
const sideBySide = "6"

func TestMain(m *testing.M) {
	parallelGiven := slices.ContainsFunc(os.Args, func(arg string) bool { return strings.Contains(arg, "test.parallel=") })
	flag.Parse()
	if !parallelGiven {
		if err := flag.Set("test.parallel", sideBySide); err != nil {
			panic(err) // the flag is the testing package's own
		}
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	keelson = filepath.Join(bin, "keelson")
	if !*keep {
		_ = command("down", "--kubeconfig", "").Run() // of a run that was killed
		defer command("down", "--kubeconfig", "").Run()
	}
	up := exec.Command(maker(), "--name", *clusterName, "up", "--workers", "2", "--demo", "--kubeconfig", "")
	up.Stderr = os.Stderr
	if err := up.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster for the tests:", err)
		return 1
	}
	return m.Run()
}

func command(args ...string) *exec.Cmd {
	return exec.Command(keelson, append([]string{"--name", *clusterName}, args...)...)
}

func home() string {
	if home := os.Getenv("KEELSON_HOME"); home != "" {
		return home
	}
	return "/var/lib/keelson"
}

func kubeconfig() string { return filepath.Join(home(), "clusters", *clusterName, "kubeconfig") }

// clients are the kubectls that run the scripts, as shell commands: the oldest that is supported, and the one built in.
func clients() map[string]string {
	return map[string]string{"BuiltIn": builtIn(), "Oldest": tool("kubectl-1.32")}
}

// tool is a program that hack/e2e.sh has built.
func tool(name string) string { return filepath.Join(filepath.Dir(keelson), "e2e", name) }

func builtIn() string { return keelson + " --name " + *clusterName + " kubectl" }

// TestKubectl runs every script of testdata/script/kubectl with every kubectl.
func TestKubectl(t *testing.T) {
	for name, client := range clients() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runScripts(t, client, "kubectl")
		})
	}
}

// TestNodes runs what takes nodes away from other scripts.
func TestNodes(t *testing.T) {
	for name, client := range clients() {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { _ = kubectl("uncordon", "worker-2") })
			oneByOne(t, client, "nodes")
		})
	}
}

// TestHeld holds what each kubectl prints against what upstream's own cluster makes it print; `make held` takes that anew.
func TestHeld(t *testing.T) {
	for name, client := range clients() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			runFiles(t, client, testscript.Params{Dir: "testdata/script/held", ContinueOnError: true})
		})
	}
}

// TestCluster runs the scripts that are about the cluster and not about the client.
func TestCluster(t *testing.T) {
	runScripts(t, builtIn(), "cluster")
}

// TestHelm runs the scripts that are about Helm.
func TestHelm(t *testing.T) {
	runScripts(t, builtIn(), "helm")
}

// TestAlone runs the scripts that nothing else could run beside.
func TestAlone(t *testing.T) { oneByOne(t, builtIn(), "alone") }

// TestIngress needs what make ingress builds.
func TestIngress(t *testing.T) { withProgram(t, "traefik", "make ingress", "ingress") }

// TestImageBuild needs what make buildkit builds.
func TestImageBuild(t *testing.T) { withProgram(t, "buildkitd", "make buildkit", "build") }

// withProgram runs the scripts of a folder if what they need is there: it takes long to build, and clusters run without it.
func withProgram(t *testing.T, program, target, dir string) {
	if _, err := os.Stat(filepath.Join(filepath.Dir(keelson), program)); err != nil {
		t.Skipf("%s has not built it: %v", target, err)
	}
	oneByOne(t, builtIn(), dir)
}

// oneByOne waits for each script of a folder before it runs the next.
func oneByOne(t *testing.T, client, dir string) {
	files, err := filepath.Glob(filepath.Join("testdata/script", dir, "*.txt"))
	must(t, err)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runFiles(t, client, testscript.Params{Files: []string{file}}) })
	}
}

func runScripts(t *testing.T, client, dir string) {
	runFiles(t, client, testscript.Params{Dir: filepath.Join("testdata/script", dir)})
}

// runFiles runs scripts with a client, a shell command; kubectl and keelson mean this cluster.
func runFiles(t *testing.T, client string, params testscript.Params) {
	script.Cluster{
		Kubeconfig: kubeconfig(), Kubectl: client, Commands: commands,
		Programs: map[string]string{
			"keelson": fmt.Sprintf("case \"$1\" in --name) exec %[1]s \"$@\" ;; esac\nexec %[1]s --name %[2]s \"$@\"", keelson, *clusterName),
			"helm":    "exec " + tool("helm") + ` --namespace "$NS" "$@"`,
			"etcd":    "exec " + filepath.Join(filepath.Dir(keelson), "etcd") + ` "$@"`,
			"etcdctl": "exec " + filepath.Join(filepath.Dir(keelson), "etcdctl") + ` "$@"`,
		},
		Golden: filepath.Join("testdata/golden", t.Name()),
		Env:    map[string]string{"CLUSTER": *clusterName, "KEELSON": keelson, "KEELSON_HOME": home()},
	}.Run(t, params)
}
