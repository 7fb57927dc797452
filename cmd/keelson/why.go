package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"keelson.dev/internal/apiclient"
	"keelson.dev/lab/cluster"
	"keelson.dev/scheduler"
	"keelson.dev/scheduler/why"
)

// whyOptions are what keelson why is asked.
type whyOptions struct {
	kubeconfig, scheduler, namespace, output, file string
	simulate                                       bool
}

func whyCommand(name *string) *cobra.Command {
	o := whyOptions{namespace: metav1.NamespaceDefault}
	command := &cobra.Command{
		Use:   "why pod NAME",
		Short: "Say why a pod is where it is, or why it waits and what would have to change",
		Args:  cobra.RangeArgs(0, 2),
		RunE: func(command *cobra.Command, args []string) error {
			if o.kubeconfig == "" {
				err := viewCluster(*name, func(c *cluster.Cluster) error { o.kubeconfig = c.KubeconfigPath(); return nil })
				if err != nil {
					return err
				}
			}
			return o.run(command.Context(), args)
		},
	}
	flags := command.Flags()
	flags.StringVarP(&o.namespace, "namespace", "n", o.namespace, "the pod's namespace")
	flags.StringVarP(&o.output, "output", "o", "", "json for all that is known")
	flags.BoolVar(&o.simulate, "simulate", false, "ask about the pod in --filename as if it existed; nothing is created")
	flags.StringVarP(&o.file, "filename", "f", "", "file with a pod, for --simulate; - for standard input")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "the cluster to ask; default: the one of --name")
	flags.StringVar(&o.scheduler, "scheduler", "", "URL of the scheduler's port; default: port 10259 of the API server's host")
	return command
}

func (o *whyOptions) run(ctx context.Context, args []string) error {
	if o.simulate != (o.file != "") || o.simulate != (len(args) == 0) || len(args) == 1 || len(args) == 2 && !slices.Contains([]string{"pod", "pods", "po"}, args[0]) {
		return errors.New("usage: keelson why pod NAME, or keelson why --simulate -f FILE")
	}
	config, err := apiclient.FromKubeconfig(o.kubeconfig, "why")
	if err != nil {
		return err
	}
	var answer *why.Answer
	if o.simulate {
		answer, err = o.whatIf(ctx, config)
	} else {
		answer, err = o.ask(ctx, config, http.MethodGet, url.Values{"namespace": {o.namespace}, "name": {args[1]}}, nil)
	}
	if err != nil {
		return err
	}
	if o.output == "json" {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(answer)
	}
	return printWhy(os.Stdout, answer)
}

// whatIf lets the API server complete the pod, in a dry run, and asks the scheduler about the result.
func (o *whyOptions) whatIf(ctx context.Context, config *rest.Config) (*why.Answer, error) {
	text, err := readAll(o.file)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	if err := yaml.UnmarshalStrict(text, pod); err != nil {
		return nil, fmt.Errorf("read pod: %w", err)
	}
	client, err := apiclient.Clientset(config)
	if err != nil {
		return nil, err
	}
	pod, err = client.CoreV1().Pods(cmp.Or(pod.Namespace, o.namespace)).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return nil, fmt.Errorf("the API server refuses the pod: %w", err)
	}
	body, err := json.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("encode pod: %w", err)
	}
	return o.ask(ctx, config, http.MethodPost, nil, body)
}

func readAll(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

const schedulerPort = "10259"

// ask asks the scheduler, with the identity that the kubeconfig has for the API server.
func (o *whyOptions) ask(ctx context.Context, config *rest.Config, method string, query url.Values, body []byte) (*why.Answer, error) {
	client, err := apiclient.HTTPClient(config)
	if err != nil {
		return nil, err
	}
	base := o.scheduler
	if base == "" {
		server, err := url.Parse(config.Host)
		if err != nil {
			return nil, fmt.Errorf("address of the API server: %w", err)
		}
		base = "https://" + net.JoinHostPort(server.Hostname(), schedulerPort)
	}
	request, err := http.NewRequestWithContext(ctx, method, base+scheduler.WhyPath+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("ask the scheduler: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the scheduler: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("ask the scheduler: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the scheduler answers %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	answer := &why.Answer{}
	if err := json.Unmarshal(text, answer); err != nil {
		return nil, fmt.Errorf("read the scheduler's answer: %w", err)
	}
	return answer, nil
}

// maxRows bounds the table of nodes; -o json has all.
const maxRows = 40

func printWhy(w io.Writer, a *why.Answer) error {
	fmt.Fprintln(w, a.Sentence)
	for _, r := range a.Reasons {
		if r.Remedy != "" {
			fmt.Fprintf(w, "  %s: %s\n", r.Reason, r.Remedy)
		}
	}
	table := newTable(w)
	if len(a.Nodes)+len(a.Reasons) > 0 {
		fmt.Fprintln(table, "\nNODE\tVERDICT\tBY\tWHY")
	}
	nodes := slices.Clone(a.Nodes)
	for _, r := range a.Reasons {
		if r.Nodes == 0 { // it is about the pod alone
			nodes = append(nodes, why.Verdict{Node: "(all)", Plugin: r.Plugin, Reasons: []string{r.Reason}})
		}
	}
	slices.SortStableFunc(nodes, func(x, y why.Verdict) int { return cmp.Compare(y.Score, x.Score) })
	for _, v := range nodes[:min(len(nodes), maxRows)] {
		if v.Fits() {
			fmt.Fprintf(table, "%s\tfits, score %d\t\t%s\n", v.Node, v.Score, scores(v.Scores))
			continue
		}
		fmt.Fprintf(table, "%s\trefused\t%s\t%s\n", v.Node, v.Plugin, strings.Join(v.Reasons, ", "))
	}
	if more := len(nodes) - maxRows; more > 0 {
		fmt.Fprintf(table, "and %d more nodes: -o json has all\n", more)
	}
	if len(a.History) > 0 {
		fmt.Fprintln(table, "\nDECIDED\tWHAT")
	}
	for _, d := range a.History {
		fmt.Fprintf(table, "%s\t%s\n", d.Time.Local().Format("15:04:05"), d.Message)
	}
	return table.Flush()
}

func scores(byPlugin map[string]int64) string {
	var out []string
	for name, score := range byPlugin {
		out = append(out, fmt.Sprintf("%s %d", name, score))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
