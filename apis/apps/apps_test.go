package apps

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"keelson.dev/apis/resource"
)

// build reads a valid object, defaults it, and lets a YAML fragment override it: lists are replaced, null removes.
func build[T resource.Object](t *testing.T, row *resource.Definition[T], base string, patches ...string) T {
	t.Helper()
	merged := map[string]any{}
	for _, text := range append([]string{base}, patches...) {
		layer := map[string]any{}
		if err := yaml.Unmarshal([]byte(text), &layer); err != nil {
			t.Fatal(err)
		}
		merge(merged, layer)
	}
	data, err := yaml.Marshal(merged)
	if err != nil {
		t.Fatal(err)
	}
	obj := row.Resource().New().(T)
	if err := yaml.UnmarshalStrict(data, obj); err != nil {
		t.Fatal(err)
	}
	if row.Default != nil {
		row.Default(obj)
	}
	return obj
}

func merge(into, layer map[string]any) {
	for key, value := range layer {
		below, ok := into[key].(map[string]any)
		if above, isMap := value.(map[string]any); isMap && ok {
			merge(below, above)
		} else if value == nil {
			delete(into, key)
		} else {
			into[key] = value
		}
	}
}

func messages(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Error())
	}
	return all
}

const (
	meta           = "metadata: {name: web, namespace: default}\n"
	spec           = "spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: 'nginx:1'}]}}}"
	valid          = meta + spec
	selectorAbsent = "`selector` does not match template `labels`"
)

func TestInvalidOnCreate(t *testing.T) {
	deployments := map[string]struct {
		patch string
		want  []string
	}{
		"valid":             {``, nil},
		"no selector":       {`spec: {selector: null}`, []string{"spec.selector: Required value", `spec.template.metadata.labels: Invalid value: {"app":"web"}: ` + selectorAbsent}},
		"empty selector":    {`spec: {selector: {matchLabels: null}}`, []string{"spec.selector: Invalid value: {}: empty selector is invalid for deployment"}},
		"other selector":    {`spec: {selector: {matchLabels: {app: x}}}`, []string{`spec.template.metadata.labels: Invalid value: {"app":"web"}: ` + selectorAbsent}},
		"negative replicas": {`spec: {replicas: -1}`, []string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}},
		"restart policy":    {`spec: {template: {spec: {restartPolicy: Never}}}`, []string{`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`}},
		"deadline":          {`spec: {template: {spec: {activeDeadlineSeconds: 1}}}`, []string{"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"}},
		"strategy":          {`spec: {strategy: {type: Hope}}`, []string{`spec.strategy: Unsupported value: {"type":"Hope"}: supported values: "Recreate", "RollingUpdate"`}},
		"recreate rolling":  {`spec: {strategy: {type: Recreate, rollingUpdate: {}}}`, []string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		"stuck":             {`spec: {strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}}`, []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"}},
		"too unavailable":   {`spec: {strategy: {rollingUpdate: {maxUnavailable: 101%}}}`, []string{`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`}},
		"not a percentage":  {`spec: {strategy: {rollingUpdate: {maxSurge: x}}}`, []string{`spec.strategy.rollingUpdate.maxSurge: Invalid value: "x": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')`}},
		"progress deadline": {`spec: {minReadySeconds: 600}`, []string{"spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"}},
		"container":         {`spec: {template: {spec: {containers: []}}}`, []string{"spec.template.spec.containers: Required value"}},
	}
	for name, tc := range deployments {
		t.Run("deployment/"+name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, messages(deployment.Validate(build(t, &deployment, valid, tc.patch)))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
	statefulSets := map[string]struct {
		patch string
		want  []string
	}{
		"valid":           {``, nil},
		"management":      {`spec: {podManagementPolicy: Chaotic}`, []string{`spec.podManagementPolicy: Invalid value: "Chaotic": must be 'OrderedReady' or 'Parallel'`}},
		"partition":       {`spec: {updateStrategy: {rollingUpdate: {partition: -1, maxUnavailable: 0}}}`, []string{"spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0", "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"}},
		"on delete":       {`spec: {updateStrategy: {type: OnDelete, rollingUpdate: {partition: 1}}}`, []string{`spec.updateStrategy.rollingUpdate: Invalid value: {"partition":1}: only allowed for updateStrategy 'RollingUpdate'`}},
		"alpha strategy":  {`spec: {updateStrategy: {type: Recreate}}`, []string{`spec.updateStrategy: Invalid value: {"type":"Recreate"}: must be 'RollingUpdate' or 'OnDelete'`}},
		"retention":       {`spec: {persistentVolumeClaimRetentionPolicy: {whenScaled: Burn}}`, []string{`spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: "Burn": supported values: "Retain", "Delete"`}},
		"ordinals":        {`spec: {ordinals: {start: -1}}`, []string{"spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"}},
		"missing volume":  {`spec: {template: {spec: {containers: [{name: c, image: "x:1", volumeMounts: [{name: data, mountPath: /d}]}]}}}`, []string{`spec.template.spec.containers[0].volumeMounts[0].name: Not found: "data"`}},
		"claim as volume": {`spec: {volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}], template: {spec: {containers: [{name: c, image: "x:1", volumeMounts: [{name: data, mountPath: /d}]}]}}}`, nil},
	}
	for name, tc := range statefulSets {
		t.Run("statefulset/"+name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, messages(statefulSet.Validate(build(t, &statefulSet, valid, tc.patch)))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
	daemonSets := map[string]struct {
		patch string
		want  []string
	}{
		"valid":    {``, nil},
		"neither":  {`spec: {updateStrategy: {rollingUpdate: {maxUnavailable: 0}}}`, []string{"spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0"}},
		"both":     {`spec: {updateStrategy: {rollingUpdate: {maxSurge: 1}}}`, []string{"spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"}},
		"strategy": {`spec: {updateStrategy: {type: Later}}`, []string{`spec.updateStrategy: Unsupported value: {"type":"Later"}: supported values: "RollingUpdate", "OnDelete"`}},
	}
	for name, tc := range daemonSets {
		t.Run("daemonset/"+name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, messages(daemonSet.Validate(build(t, &daemonSet, valid, tc.patch)))); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInvalidUpdates(t *testing.T) {
	const immutable = ": field is immutable"
	t.Run("deployment selector", func(t *testing.T) {
		old := build(t, &deployment, valid)
		now := build(t, &deployment, valid, `spec: {selector: {matchLabels: {app: b}}, template: {metadata: {labels: {app: b}}}}`)
		want := []string{`spec.selector: Invalid value: {"matchLabels":{"app":"b"}}` + immutable}
		if diff := cmp.Diff(want, messages(deployment.ValidateUpdate(now, old))); diff != "" {
			t.Errorf("errors (-want +got):\n%s", diff)
		}
	})
	for patch, allowed := range map[string]bool{
		`spec: {replicas: 4, minReadySeconds: 3, ordinals: {start: 2}, updateStrategy: {type: OnDelete}}`: true,
		`spec: {persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}, revisionHistoryLimit: 3}`:    true,
		`spec: {serviceName: other}`:                                      false,
		`spec: {podManagementPolicy: Parallel}`:                           false,
		`spec: {volumeClaimTemplates: [{metadata: {name: d}, spec: {}}]}`: false,
	} {
		errs := statefulSet.ValidateUpdate(build(t, &statefulSet, valid, patch), build(t, &statefulSet, valid))
		if got := len(errs) == 0; got != allowed {
			t.Errorf("%s: allowed %v, want %v: %v", patch, got, allowed, errs)
		}
		if !allowed && (len(errs) != 1 || !strings.HasSuffix(errs[0].Error(), immutable)) {
			t.Errorf("%s: %v", patch, errs)
		}
	}
	t.Run("old template stays writable", func(t *testing.T) {
		old := build(t, &deployment, valid, `spec: {template: {spec: {containers: [{name: BAD, image: "x:1"}]}}}`)
		now := old.DeepCopy()
		now.Spec.Replicas = ptr.To[int32](3)
		if errs := deployment.ValidateUpdate(now, old); len(errs) != 0 {
			t.Errorf("scaling is refused: %v", errs)
		}
	})
}

func TestStatus(t *testing.T) {
	old := build(t, &deployment, valid, `status: {collisionCount: 3}`)
	now := build(t, &deployment, valid, `status: {replicas: 1, readyReplicas: 2, availableReplicas: -1, collisionCount: 2}`)
	want := []string{
		"status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
		"status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
		"status.collisionCount: Invalid value: 2: cannot be decremented",
	}
	if diff := cmp.Diff(want, messages(deployment.ValidateStatus(now, old))); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestControllerRevision(t *testing.T) {
	for data, want := range map[string][]string{
		`{"a":1}`: nil,
		`null`:    {"data: Required value: data is mandatory"},
		``:        {"data: Required value: data is mandatory"},
	} {
		r := &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(data)}}
		if diff := cmp.Diff(want, messages(controllerRevision.Validate(r))); diff != "" {
			t.Errorf("%q: errors (-want +got):\n%s", data, diff)
		}
	}
	r := &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "web", Controller: new(true)},
	}}}
	if got := controllerCell(r); got != "statefulset.apps/web" {
		t.Errorf("controller column: %v", got)
	}
}

// TestColumns prints one object of each kind as kubectl get -o wide would, but for its age.
func TestColumns(t *testing.T) {
	const status = "status: {replicas: 3, readyReplicas: 2, updatedReplicas: 1, availableReplicas: 2}"
	cases := map[string]struct {
		row  *resource.Resource
		obj  resource.Object
		want map[string]any
	}{
		"deployment": {deployment.Resource(), build(t, &deployment, valid, `spec: {replicas: 3}`, status), map[string]any{
			"Name": "web", "Ready": "2/3", "Up-to-date": int64(1), "Available": int64(2), "Containers": "c", "Images": "nginx:1", "Selector": "app=web",
		}},
		"replicaset": {replicaSet.Resource(), build(t, &replicaSet, valid, `spec: {replicas: 4}`, `status: {replicas: 3, readyReplicas: 2}`), map[string]any{
			"Name": "web", "Desired": int64(4), "Current": int64(3), "Ready": int64(2), "Containers": "c", "Images": "nginx:1", "Selector": "app=web",
		}},
		"statefulset": {statefulSet.Resource(), build(t, &statefulSet, valid, `spec: {replicas: 3}`, status), map[string]any{
			"Name": "web", "Ready": "2/3", "Containers": "c", "Images": "nginx:1",
		}},
		"daemonset": {daemonSet.Resource(), build(t, &daemonSet, valid, `status: {desiredNumberScheduled: 5, currentNumberScheduled: 4, numberReady: 3, updatedNumberScheduled: 2, numberAvailable: 1, numberMisscheduled: 0}`), map[string]any{
			"Name": "web", "Desired": int64(5), "Current": int64(4), "Ready": int64(3), "Up-to-date": int64(2), "Available": int64(1), "Node Selector": "<none>",
			"Containers": "c", "Images": "nginx:1", "Selector": "app=web",
		}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := map[string]any{}
			for _, column := range tc.row.Columns {
				got[column.Name] = column.Get(tc.obj)
			}
			delete(got, "Age")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("columns (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTemplateGeneration(t *testing.T) {
	created := build(t, &daemonSet, valid)
	prepareDaemonSet(created, nil)
	same := created.DeepCopy()
	same.Annotations = nil
	prepareDaemonSet(same, created)
	changed := created.DeepCopy()
	changed.Spec.Template.Spec.NodeName = "n"
	prepareDaemonSet(changed, created)
	got := [3]string{}
	for i, ds := range []*appsv1.DaemonSet{created, same, changed} {
		got[i] = ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	}
	if want := [3]string{"1", "1", "2"}; got != want {
		t.Errorf("template generations %v, want %v", got, want)
	}
}
