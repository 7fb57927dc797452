package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"keelson.dev/apis/validate"
)

// warnPod warns on create only: hardly a person updates a pod.
func warnPod(p, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	var warnings []string
	if messages := apivalidation.NameIsDNSLabel(p.Name, false); len(messages) > 0 {
		warnings = append(warnings, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; "+
			"a DNS label is recommended: %v", messages))
	}
	return append(warnings, podWarnings(p.Annotations, &p.Spec, nil)...)
}

// warnPodStatus tells of addresses in a form that other software may read differently.
func warnPodStatus(p *corev1.Pod) []string {
	var warnings []string
	for i, ip := range p.Status.PodIPs {
		warnings = append(warnings, validate.WarnIP(ip.IP, statusPath.Child("podIPs").Index(i).Child("ip"))...)
	}
	for i, ip := range p.Status.HostIPs {
		warnings = append(warnings, validate.WarnIP(ip.IP, statusPath.Child("hostIPs").Index(i).Child("ip"))...)
	}
	return warnings
}

// PodTemplateWarnings tells what is legal in a template but surely not meant. An unchanged template gives none.
func PodTemplateWarnings(template, old *corev1.PodTemplateSpec, path *field.Path) []string {
	if template == nil || old != nil && validate.Equal(template, old) {
		return nil
	}
	return podWarnings(template.Annotations, &template.Spec, path)
}

// warner collects warnings about one pod spec.
type warner struct{ warnings []string }

func (w *warner) add(path *field.Path, format string, args ...any) {
	w.warnings = append(w.warnings, path.String()+": "+fmt.Sprintf(format, args...))
}

func podWarnings(annotations map[string]string, spec *corev1.PodSpec, root *field.Path) []string {
	w, path := &warner{}, child(root, "spec")
	w.nodeLabels(spec, path)
	w.nullSelectors(spec, path)
	w.annotations(annotations, spec, child(root, "metadata").Child("annotations"))
	if root != nil { // a pod's are told before the annotations become fields
		w.warnings = append(w.warnings, warnAppArmor(annotations, spec, root.Child("metadata", "annotations"))...)
	}
	w.volumes(spec.Volumes, path.Child("volumes"))
	w.duplicates(spec, path)
	w.fractions(spec.Overhead, path.Child("overhead"))
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		at := path.Child(list).Index(i)
		w.fractions(c.Resources.Limits, at.Child("resources", "limits"))
		w.fractions(c.Resources.Requests, at.Child("resources", "requests"))
		w.env(c.Env, at.Child("env"))
	})
	w.ports(spec, path)
	if grace := spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 {
		w.add(path.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	return w.warnings
}

func child(root *field.Path, name string) *field.Path {
	if root == nil {
		return field.NewPath(name)
	}
	return root.Child(name)
}

// nodeLabels looks for deprecated labels wherever a pod names labels of nodes.
func (w *warner) nodeLabels(spec *corev1.PodSpec, path *field.Path) {
	for _, key := range sortedKeys(spec.NodeSelector) {
		if message, ok := deprecatedNodeLabel(key); ok {
			w.add(path.Child("nodeSelector").Key(key), "%s", message)
		}
	}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		affinity, at := spec.Affinity.NodeAffinity, path.Child("affinity", "nodeAffinity")
		if required := affinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			terms := at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
			for i := range required.NodeSelectorTerms {
				w.nodeTerm(&required.NodeSelectorTerms[i], terms.Index(i))
			}
		}
		preferred := at.Child("preferredDuringSchedulingIgnoredDuringExecution")
		for i := range affinity.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(&affinity.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, preferred.Index(i).Child("preference"))
		}
	}
	for i, constraint := range spec.TopologySpreadConstraints {
		if message, ok := deprecatedNodeLabel(constraint.TopologyKey); ok {
			w.add(path.Child("topologySpreadConstraints").Index(i).Child("topologyKey"), "%s is %s", constraint.TopologyKey, message)
		}
	}
}

func (w *warner) nodeTerm(term *corev1.NodeSelectorTerm, path *field.Path) {
	for i, expression := range term.MatchExpressions {
		if message, ok := deprecatedNodeLabel(expression.Key); ok {
			w.add(path.Child("matchExpressions").Index(i).Child("key"), "%s is %s", expression.Key, message)
		}
	}
}

func (w *warner) nullSelectors(spec *corev1.PodSpec, path *field.Path) {
	const message = "a null labelSelector results in matching no pod"
	for i, constraint := range spec.TopologySpreadConstraints {
		if constraint.LabelSelector == nil {
			w.add(path.Child("topologySpreadConstraints").Index(i).Child("labelSelector"), message)
		}
	}
	if spec.Affinity == nil {
		return
	}
	terms := func(name string, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		at := path.Child("affinity", name)
		for i := range required {
			if required[i].LabelSelector == nil {
				w.add(at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i).Child("labelSelector"), message)
			}
		}
		for i := range preferred {
			if preferred[i].PodAffinityTerm.LabelSelector == nil {
				w.add(at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm", "labelSelector"), message)
			}
		}
	}
	if a := spec.Affinity.PodAffinity; a != nil {
		terms("podAffinity", a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := spec.Affinity.PodAntiAffinity; a != nil {
		terms("podAntiAffinity", a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// deadAnnotations once did what fields do now.
var deadAnnotations = []struct{ key, message string }{
	{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
	{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
}

func (w *warner) annotations(annotations map[string]string, spec *corev1.PodSpec, path *field.Path) {
	for _, dead := range deadAnnotations {
		if _, ok := annotations[dead.key]; ok {
			w.add(path.Key(dead.key), "%s", dead.message)
		}
	}
	const seccomp = `non-functional in v1.27+; use the "seccompProfile" field instead`
	sc := spec.SecurityContext
	if _, ok := annotations[corev1.SeccompPodAnnotationKey]; ok && (sc == nil || sc.SeccompProfile == nil) {
		w.add(path.Key(corev1.SeccompPodAnnotationKey), seccomp)
	}
	visitContainers(spec, func(_ string, _ int, c *corev1.Container) {
		key := corev1.SeccompContainerAnnotationKeyPrefix + c.Name
		if _, ok := annotations[key]; ok && (c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil) {
			w.add(path.Key(key), seccomp)
		}
	})
}

// deadVolumes are the types of volumes that have no code any more.
var deadVolumes = map[string]string{
	"photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
	"gitRepo":              "deprecated in v1.11, and disabled by default in v1.33+",
	"scaleIO":              "deprecated in v1.16, non-functional in v1.22+",
	"flocker":              "deprecated in v1.22, non-functional in v1.25+",
	"storageOS":            "deprecated in v1.22, non-functional in v1.25+",
	"quobyte":              "deprecated in v1.22, non-functional in v1.25+",
	"glusterfs":            "deprecated in v1.25, non-functional in v1.26+",
	"cephfs":               "deprecated in v1.28, non-functional in v1.31+",
	"rbd":                  "deprecated in v1.28, non-functional in v1.31+",
}

func (w *warner) deadVolumes(path *field.Path, types []presence) {
	for _, t := range types {
		if t.set {
			w.add(path.Child(t.name), "%s", deadVolumes[t.name])
		}
	}
}

func (w *warner) volumes(volumes []corev1.Volume, path *field.Path) {
	for i := range volumes {
		v, at := &volumes[i], path.Index(i)
		w.deadVolumes(at, []presence{
			{"photonPersistentDisk", v.PhotonPersistentDisk != nil},
			{"gitRepo", v.GitRepo != nil},
			{"scaleIO", v.ScaleIO != nil},
			{"flocker", v.Flocker != nil},
			{"storageOS", v.StorageOS != nil},
			{"quobyte", v.Quobyte != nil},
			{"glusterfs", v.Glusterfs != nil},
			{"cephfs", v.CephFS != nil},
			{"rbd", v.RBD != nil},
		})
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			w.warnings = append(w.warnings, VolumeClaimWarnings(&v.Ephemeral.VolumeClaimTemplate.Spec, at.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
		}
		w.overlappingFiles(v)
	}
}

// overlappingFiles finds files of one volume that would overwrite each other, or be a file and a directory at once.
func (w *warner) overlappingFiles(v *corev1.Volume) {
	type file struct{ path, source string }
	var files []file
	items := func(list []corev1.KeyToPath, source string) {
		for _, item := range list {
			files = append(files, file{item.Path, source})
		}
	}
	downward := func(list []corev1.DownwardAPIVolumeFile, source string) {
		for _, item := range list {
			files = append(files, file{item.Path, source})
		}
	}
	label := ""
	switch {
	case v.ConfigMap != nil:
		label = fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name)
		items(v.ConfigMap.Items, "")
	case v.Secret != nil:
		label = fmt.Sprintf("Secret %q", v.Secret.SecretName)
		items(v.Secret.Items, "")
	case v.DownwardAPI != nil:
		label = "DownwardAPI"
		downward(v.DownwardAPI.Items, "")
	case v.Projected != nil:
		label = "Projected"
		for _, source := range v.Projected.Sources {
			switch {
			case source.ConfigMap != nil:
				items(source.ConfigMap.Items, fmt.Sprintf(" (ConfigMap %q)", source.ConfigMap.Name))
			case source.Secret != nil:
				items(source.Secret.Items, fmt.Sprintf(" (Secret %q)", source.Secret.Name))
			case source.DownwardAPI != nil:
				downward(source.DownwardAPI.Items, " (DownwardAPI)")
			case source.ServiceAccountToken != nil:
				files = append(files, file{source.ServiceAccountToken.Path, " (ServiceAccountToken)"})
			case source.ClusterTrustBundle != nil:
				name := source.ClusterTrustBundle.Name
				if name == nil {
					name = source.ClusterTrustBundle.SignerName
				}
				if name != nil {
					files = append(files, file{source.ClusterTrustBundle.Path, fmt.Sprintf(" (ClusterTrustBundle %q)", *name)})
				}
			case source.PodCertificate == nil:
				w.warnings = append(w.warnings, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
			}
		}
	}
	for i, later := range files {
		for _, earlier := range files[:i] {
			if a, b := strings.TrimRight(later.path, "/"), strings.TrimRight(earlier.path, "/"); overlap(a, b) {
				w.warnings = append(w.warnings, fmt.Sprintf("volume %q (%s): overlapping paths: %q%s with %q%s", v.Name, label, a, later.source, b, earlier.source))
			}
		}
	}
}

func overlap(a, b string) bool {
	return a != "" && b != "" && (a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/"))
}

// duplicates finds list entries that the merge of apply would fold into one.
func (w *warner) duplicates(spec *corev1.PodSpec, path *field.Path) {
	ips := sets.New[string]()
	for i, alias := range spec.HostAliases {
		at := path.Child("hostAliases").Index(i).Child("ip")
		if ips.Has(alias.IP) {
			w.add(at, "duplicate ip %q", alias.IP)
		}
		ips.Insert(alias.IP)
		w.warnings = append(w.warnings, validation.GetWarningsForIP(at, alias.IP)...)
	}
	if spec.DNSConfig != nil {
		for i, nameserver := range spec.DNSConfig.Nameservers {
			w.warnings = append(w.warnings, validation.GetWarningsForIP(path.Child("dnsConfig", "nameservers").Index(i), nameserver)...)
		}
	}
	names := sets.New[string]()
	for i, secret := range spec.ImagePullSecrets {
		at := path.Child("imagePullSecrets").Index(i).Child("name")
		switch {
		case secret.Name == "":
			w.add(at, "invalid empty name %q", secret.Name)
		case names.Has(secret.Name):
			w.add(at, "duplicate name %q", secret.Name)
		}
		names.Insert(secret.Name)
	}
}

// fractions finds parts of a byte.
func (w *warner) fractions(list corev1.ResourceList, path *field.Path) {
	w.fraction(list, corev1.ResourceMemory, path)
	w.fraction(list, corev1.ResourceEphemeralStorage, path)
}

func (w *warner) fraction(list corev1.ResourceList, name corev1.ResourceName, path *field.Path) {
	if quantity, ok := list[name]; ok && quantity.MilliValue()%1000 != 0 {
		w.add(path.Key(string(name)), "fractional byte value %q is invalid, must be an integer", quantity.String())
	}
}

// env finds variables that hide an earlier one without building on it.
func (w *warner) env(vars []corev1.EnvVar, path *field.Path) {
	seen := sets.New[string]()
	for i, v := range vars {
		reference := "$(" + v.Name + ")"
		extends := v.ValueFrom == nil && v.Value != reference && strings.Contains(v.Value, reference)
		if seen.Has(v.Name) && !extends {
			w.add(path.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
		}
		seen.Insert(v.Name)
	}
}

// ports finds ports that are declared more than once, or not clearly apart.
func (w *warner) ports(spec *corev1.PodSpec, path *field.Path) {
	type place struct {
		path *field.Path
		port corev1.ContainerPort
	}
	seen := map[string][]place{}
	visitContainers(spec, func(list string, i int, c *corev1.Container) {
		for j, port := range c.Ports {
			at := path.Child(list).Index(i).Child("ports").Index(j)
			if port.HostIP != "" && port.HostPort == 0 {
				w.add(at, "hostIP set without hostPort: %+v", port)
			}
			key := fmt.Sprintf("%d/%s", port.ContainerPort, port.Protocol)
			for _, other := range seen[key] {
				switch {
				case port.HostIP == other.port.HostIP && port.HostPort == other.port.HostPort:
					w.add(at, "duplicate port definition with %s", other.path)
				case port.HostPort == 0 || other.port.HostPort == 0:
					w.add(at, "overlapping port definition with %s", other.path)
				case port.HostPort == other.port.HostPort && (port.HostIP == "") != (other.port.HostIP == ""):
					w.add(at, "dangerously ambiguous port definition with %s", other.path)
				}
			}
			seen[key] = append(seen[key], place{at, port})
		}
	})
}
