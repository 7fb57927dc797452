// Package extender calls the HTTP extenders of KubeSchedulerConfiguration: programs of others that remove nodes, score them, choose
// victims or bind. The protocol is k8s.io/kube-scheduler/extender/v1.
package extender

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"
	fwk "k8s.io/kube-scheduler/framework"
)

const (
	// defaultTimeout is how long an extender may take if the configuration does not say; upstream's value.
	defaultTimeout = 5 * time.Second
	// maxAnswer bounds what an extender may answer: the nodes of the largest cluster, twice.
	maxAnswer = 256 << 20
)

// Extender is one extender. It implements fwk.Extender.
type Extender struct {
	conf   configv1.Extender
	client *http.Client
}

var _ fwk.Extender = &Extender{}

// New checks the configuration of all extenders and returns them in its order. ignored are the resources that only extenders count.
func New(confs []configv1.Extender) (out []fwk.Extender, ignored []string, err error) {
	binders := 0
	for _, conf := range confs {
		if conf.URLPrefix == "" {
			return nil, nil, errors.New("an extender has no urlPrefix")
		}
		if conf.PrioritizeVerb != "" && conf.Weight <= 0 {
			return nil, nil, fmt.Errorf("extender %s: an extender that prioritizes needs a positive weight", conf.URLPrefix)
		}
		if conf.BindVerb != "" {
			binders++
		}
		client, err := httpClient(conf)
		if err != nil {
			return nil, nil, fmt.Errorf("extender %s: %w", conf.URLPrefix, err)
		}
		out = append(out, &Extender{conf: conf, client: client})
		for _, r := range conf.ManagedResources {
			if r.IgnoredByScheduler {
				ignored = append(ignored, r.Name)
			}
		}
	}
	if binders > 1 {
		return nil, nil, fmt.Errorf("only one extender can bind, %d do", binders)
	}
	return out, ignored, nil
}

func httpClient(conf configv1.Extender) (*http.Client, error) {
	config := &rest.Config{Host: conf.URLPrefix, Timeout: cmp.Or(conf.HTTPTimeout.Duration, defaultTimeout)}
	if t := conf.TLSConfig; t != nil {
		config.TLSClientConfig = rest.TLSClientConfig{
			Insecure: t.Insecure, ServerName: t.ServerName, CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile,
			CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
		}
	}
	return rest.HTTPClientFor(config)
}

// Name implements fwk.Extender.
func (e *Extender) Name() string { return e.conf.URLPrefix }

// IsIgnorable implements fwk.Extender.
func (e *Extender) IsIgnorable() bool { return e.conf.Ignorable }

// IsFilter implements fwk.Extender.
func (e *Extender) IsFilter() bool { return e.conf.FilterVerb != "" }

// IsPrioritizer implements fwk.Extender.
func (e *Extender) IsPrioritizer() bool { return e.conf.PrioritizeVerb != "" }

// IsBinder implements fwk.Extender.
func (e *Extender) IsBinder() bool { return e.conf.BindVerb != "" }

// SupportsPreemption implements fwk.Extender.
func (e *Extender) SupportsPreemption() bool { return e.conf.PreemptVerb != "" }

// IsInterested implements fwk.Extender: an extender that manages resources is asked about pods that request one of them.
func (e *Extender) IsInterested(pod *corev1.Pod) bool {
	if len(e.conf.ManagedResources) == 0 {
		return true
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, r := range e.conf.ManagedResources {
			name := corev1.ResourceName(r.Name)
			if _, ok := c.Resources.Requests[name]; ok {
				return true
			}
			if _, ok := c.Resources.Limits[name]; ok {
				return true
			}
		}
	}
	return false
}

// args describe the pod and the nodes: by name if the extender knows nodes itself.
func (e *Extender) args(pod *corev1.Pod, nodes []fwk.NodeInfo) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: pod}
	if e.conf.NodeCacheCapable {
		names := make([]string, 0, len(nodes))
		for _, n := range nodes {
			names = append(names, n.Node().Name)
		}
		args.NodeNames = &names
		return args
	}
	args.Nodes = &corev1.NodeList{}
	for _, n := range nodes {
		args.Nodes.Items = append(args.Nodes.Items, *n.Node())
	}
	return args
}

// Filter implements fwk.Extender.
func (e *Extender) Filter(pod *corev1.Pod, nodes []fwk.NodeInfo) ([]fwk.NodeInfo, extenderv1.FailedNodesMap, extenderv1.FailedNodesMap, error) {
	var result extenderv1.ExtenderFilterResult
	if err := e.call(e.conf.FilterVerb, e.args(pod, nodes), &result); err != nil {
		return nil, nil, nil, err
	}
	if result.Error != "" {
		return nil, nil, nil, errors.New(result.Error)
	}
	byName := map[string]fwk.NodeInfo{}
	for _, n := range nodes {
		byName[n.Node().Name] = n
	}
	var names []string
	switch {
	case e.conf.NodeCacheCapable && result.NodeNames != nil:
		names = *result.NodeNames
	case result.Nodes != nil:
		for i := range result.Nodes.Items {
			names = append(names, result.Nodes.Items[i].Name)
		}
	}
	kept := make([]fwk.NodeInfo, 0, len(names))
	for _, name := range names {
		n := byName[name]
		if n == nil {
			return nil, nil, nil, fmt.Errorf("extender %q claims a filtered node %q which is not found in the input node list", e.Name(), name)
		}
		kept = append(kept, n)
	}
	return kept, result.FailedNodes, result.FailedAndUnresolvableNodes, nil
}

// Prioritize implements fwk.Extender.
func (e *Extender) Prioritize(pod *corev1.Pod, nodes []fwk.NodeInfo) (*extenderv1.HostPriorityList, int64, error) {
	var result extenderv1.HostPriorityList
	if err := e.call(e.conf.PrioritizeVerb, e.args(pod, nodes), &result); err != nil {
		return nil, 0, err
	}
	return &result, e.conf.Weight, nil
}

// Bind implements fwk.Extender.
func (e *Extender) Bind(b *corev1.Binding) error {
	var result extenderv1.ExtenderBindingResult
	args := &extenderv1.ExtenderBindingArgs{PodName: b.Name, PodNamespace: b.Namespace, PodUID: b.UID, Node: b.Target.Name}
	if err := e.call(e.conf.BindVerb, args, &result); err != nil {
		return err
	}
	if result.Error != "" {
		return errors.New(result.Error)
	}
	return nil
}

// ProcessPreemption implements fwk.Extender. The extender answers with identifiers of pods; they must be victims or run on the node.
func (e *Extender) ProcessPreemption(pod *corev1.Pod, victims map[string]*extenderv1.Victims, nodes fwk.NodeInfoLister) (map[string]*extenderv1.Victims, error) {
	args := &extenderv1.ExtenderPreemptionArgs{Pod: pod}
	if e.conf.NodeCacheCapable {
		args.NodeNameToMetaVictims = metaVictims(victims)
	} else {
		args.NodeNameToVictims = victims
	}
	var result extenderv1.ExtenderPreemptionResult
	if err := e.call(e.conf.PreemptVerb, args, &result); err != nil {
		return nil, err
	}
	out := map[string]*extenderv1.Victims{}
	for name, meta := range result.NodeNameToMetaVictims {
		n, err := nodes.Get(name)
		if err != nil {
			return nil, fmt.Errorf("extender %q names node %q: %w", e.Name(), name, err)
		}
		chosen := &extenderv1.Victims{NumPDBViolations: meta.NumPDBViolations}
		for _, m := range meta.Pods {
			i := slices.IndexFunc(n.GetPods(), func(p fwk.PodInfo) bool { return string(p.GetPod().UID) == m.UID })
			if i < 0 {
				return nil, fmt.Errorf("extender: %v claims to preempt pod (UID: %v) on node: %v, but the pod is not found on that node", e.Name(), m.UID, name)
			}
			chosen.Pods = append(chosen.Pods, n.GetPods()[i].GetPod())
		}
		out[name] = chosen
	}
	return out, nil
}

func metaVictims(victims map[string]*extenderv1.Victims) map[string]*extenderv1.MetaVictims {
	out := map[string]*extenderv1.MetaVictims{}
	for node, v := range victims {
		meta := &extenderv1.MetaVictims{NumPDBViolations: v.NumPDBViolations}
		for _, p := range v.Pods {
			meta.Pods = append(meta.Pods, &extenderv1.MetaPod{UID: string(p.UID)})
		}
		out[node] = meta
	}
	return out
}

// call sends one request. The framework's interface has no context; the client's timeout bounds it.
func (e *Extender) call(verb string, args, result any) error {
	body, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("encode for extender: %w", err)
	}
	url := strings.TrimRight(e.conf.URLPrefix, "/") + "/" + verb
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask extender: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("failed %v with extender at URL %v, code %v", verb, url, resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(result); err != nil {
		return fmt.Errorf("read answer of extender %s: %w", url, err)
	}
	return nil
}
