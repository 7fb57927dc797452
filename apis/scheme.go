package apis

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"keelson.dev/apis/resource"
)

// NewScheme returns a scheme in which every served type stands under its version and, as its own hub, under __internal, with the
// rows' defaults and field labels. It is built once per server.
func NewScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	addUnversioned(scheme)
	groups := Groups()
	for _, group := range groups {
		addVersions(scheme, group)
	}
	for _, group := range groups {
		addHub(scheme, group)
		if group.Register != nil {
			must(group.Register(scheme))
		}
	}
	for _, row := range All() {
		addDefaulting(scheme, row)
		addFieldLabels(scheme, row)
	}
	return scheme
}

// NewOpenAPIScheme returns a scheme of external types only, those of CRDs and of the aggregator included. The namers of OpenAPI
// use it: from NewScheme's they would publish __internal as a version.
func NewOpenAPIScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	addUnversioned(scheme)
	for _, group := range Groups() {
		addVersions(scheme, group)
	}
	must(apiextensionsv1.AddToScheme(scheme))
	must(apiregistrationv1.AddToScheme(scheme))
	return scheme
}

// NewCodecs returns the codecs of a scheme of NewScheme.
func NewCodecs(scheme *runtime.Scheme) serializer.CodecFactory {
	return serializer.NewCodecFactory(scheme)
}

func addUnversioned(scheme *runtime.Scheme) {
	v1 := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, v1)
	scheme.AddUnversionedTypes(v1, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
}

func addVersions(scheme *runtime.Scheme, group Group) {
	var priority []schema.GroupVersion
	for _, version := range group.Versions {
		must(version.AddToScheme(scheme))
		priority = append(priority, version.GroupVersion)
	}
	must(scheme.SetVersionPriority(priority...))
}

// addHub registers the types of k8s.io/api also as the internal version of their group; of a kind in several versions the first
// listed is the hub. The external registration has to come first: Scheme.ObjectKinds(x)[0] is what the server takes for external.
// Types of metav1, which every group version lists too, stay external.
func addHub(scheme *runtime.Scheme, group Group) {
	internal := schema.GroupVersion{Group: group.Versions[0].Group, Version: runtime.APIVersionInternal}
	for _, version := range group.Versions {
		known := scheme.KnownTypes(version.GroupVersion)
		for _, kind := range sortedKeys(known) {
			if !strings.HasPrefix(known[kind].PkgPath(), "k8s.io/api/") || scheme.Recognizes(internal.WithKind(kind)) {
				continue
			}
			if hub, ok := foreignHubs[version.WithKind(kind)]; ok {
				scheme.AddKnownTypeWithName(internal.WithKind(kind), hub())
				continue
			}
			scheme.AddKnownTypeWithName(internal.WithKind(kind), reflect.New(known[kind]).Interface().(runtime.Object))
		}
	}
}

// foreignHubs names the kinds whose hub is a type of another group: one stored object, served in two groups.
var foreignHubs = map[schema.GroupVersionKind]func() runtime.Object{
	eventsv1.SchemeGroupVersion.WithKind("Event"):     func() runtime.Object { return &corev1.Event{} },
	eventsv1.SchemeGroupVersion.WithKind("EventList"): func() runtime.Object { return &corev1.EventList{} },
}

// addDefaulting lets the row's Default run wherever the kind or a list of it is decoded.
func addDefaulting(scheme *runtime.Scheme, row *resource.Resource) {
	if row.Default == nil {
		return
	}
	scheme.AddTypeDefaultingFunc(row.New(), func(obj any) { row.Default(obj.(resource.Object)) })
	list, err := scheme.New(row.GroupVersion.WithKind(row.Kind + "List"))
	must(err)
	scheme.AddTypeDefaultingFunc(list, func(obj any) {
		// EachListItem fails only on what is no list, and the visitor never does.
		_ = meta.EachListItem(obj.(runtime.Object), func(item runtime.Object) error {
			row.Default(item.(resource.Object))
			return nil
		})
	})
}

// addFieldLabels lets field selectors name the row's fields; any other is refused, which clients see as 400. Kinds without fields
// of their own keep the library's answer. Upstream words the refusal differently for two kinds.
func addFieldLabels(scheme *runtime.Scheme, row *resource.Resource) {
	if len(row.Fields) == 0 {
		return
	}
	refusal := map[string]string{
		"Job": "field label %q not supported for Job", "ResourceSlice": "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: %s",
	}[row.Kind]
	if refusal == "" {
		refusal = "field label not supported: %s"
	}
	labels := []string{"metadata.name", "metadata.namespace"}
	for name := range row.Fields {
		labels = append(labels, name)
	}
	convert := func(label, value string) (string, string, error) {
		if !slices.Contains(labels, label) {
			return "", "", fmt.Errorf(refusal, label)
		}
		return label, value, nil
	}
	for _, version := range ServedVersions(row) {
		if version.Group != row.GroupVersion.Group {
			continue // another group has its own names for the fields, registered by Group.Register
		}
		must(scheme.AddFieldLabelConversionFunc(version.WithKind(row.Kind), convert))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
