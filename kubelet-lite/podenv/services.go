package podenv

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// serviceVars are the variables that announce services: those of the pod's namespace if it wants service links, and always the
// API server's.
func serviceVars(pod *corev1.Pod, services []*corev1.Service) map[string]string {
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	env := map[string]string{}
	var own []*corev1.Service
	for _, svc := range services {
		if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone || len(svc.Spec.Ports) == 0 {
			continue
		}
		master := svc.Namespace == metaDefault && svc.Name == "kubernetes"
		switch {
		case svc.Namespace == pod.Namespace && (links || master):
			own = append(own, svc)
		case master:
			addServiceVars(env, svc)
		}
	}
	// The namespace's own services come last, so that one called kubernetes there wins, as documented.
	for _, svc := range own {
		addServiceVars(env, svc)
	}
	return env
}

const metaDefault = "default"

func addServiceVars(env map[string]string, svc *corev1.Service) {
	prefix := envName(svc.Name)
	ip := svc.Spec.ClusterIP
	env[prefix+"_SERVICE_HOST"] = ip
	env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(svc.Spec.Ports[0].Port))
	for i, p := range svc.Spec.Ports {
		if p.Name != "" {
			env[prefix+"_SERVICE_PORT_"+envName(p.Name)] = strconv.Itoa(int(p.Port))
		}
		// The rest is what Docker's container links looked like.
		protocol := string(p.Protocol)
		if protocol == "" {
			protocol = string(corev1.ProtocolTCP)
		}
		lower := strings.ToLower(protocol)
		url := fmt.Sprintf("%s://%s", lower, net.JoinHostPort(ip, strconv.Itoa(int(p.Port))))
		if i == 0 {
			env[prefix+"_PORT"] = url
		}
		portPrefix := fmt.Sprintf("%s_PORT_%d_%s", prefix, p.Port, strings.ToUpper(protocol))
		env[portPrefix] = url
		env[portPrefix+"_PROTO"] = lower
		env[portPrefix+"_PORT"] = strconv.Itoa(int(p.Port))
		env[portPrefix+"_ADDR"] = ip
	}
}

func envName(s string) string {
	return strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(s))
}
