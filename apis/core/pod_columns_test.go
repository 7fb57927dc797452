package core

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodColumns(t *testing.T) {
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	ended := func(code int32, reason string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	ready := []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	two := []corev1.Container{{Name: "a"}, {Name: "b"}}
	inits := []corev1.Container{{Name: "i"}, {Name: "j"}}
	sidecar := []corev1.Container{{Name: "s", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}}
	ago := metav1.NewTime(time.Now().Add(-5*time.Second - 500*time.Millisecond))
	now := metav1.Now()

	cases := map[string]struct {
		pod  corev1.Pod
		want [3]string // ready, status, restarts
	}{
		"pending": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Pending"}}, [3]string{"0/2", "Pending", "0"}},
		"evicted": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Failed", Reason: "Evicted"}}, [3]string{"0/2", "Evicted", "0"}},
		"gated": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Pending", Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Reason: corev1.PodReasonSchedulingGated},
		}}}, [3]string{"0/2", "SchedulingGated", "0"}},
		"running": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Running", Conditions: ready, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", Ready: true, State: running}, {Name: "b", Ready: true, State: running, RestartCount: 2, LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: ago}}},
		}}}, [3]string{"2/2", "Running", "2 (5s ago)"}},
		"crash loop": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", Ready: true, State: running}, {Name: "b", State: waiting("CrashLoopBackOff"), RestartCount: 3},
		}}}, [3]string{"1/2", "CrashLoopBackOff", "3"}},
		"creating": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Pending", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: waiting("ContainerCreating")}, {Name: "b", State: waiting("ContainerCreating")},
		}}}, [3]string{"0/2", "ContainerCreating", "0"}},
		"completed": {corev1.Pod{Spec: corev1.PodSpec{Containers: two[:1]}, Status: corev1.PodStatus{Phase: "Succeeded", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: ended(0, "Completed")},
		}}}, [3]string{"0/1", "Completed", "0"}},
		"one completed, one ready": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Running", Conditions: ready, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: ended(0, "Completed")}, {Name: "b", Ready: true, State: running},
		}}}, [3]string{"1/2", "Running", "0"}},
		"one completed, not ready": {corev1.Pod{Spec: corev1.PodSpec{Containers: two}, Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: ended(0, "Completed")}, {Name: "b", Ready: true, State: running},
		}}}, [3]string{"1/2", "NotReady", "0"}},
		"exit code": {corev1.Pod{Spec: corev1.PodSpec{Containers: two[:1]}, Status: corev1.PodStatus{Phase: "Failed", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: ended(3, "")},
		}}}, [3]string{"0/1", "ExitCode:3", "0"}},
		"first of two init containers": {corev1.Pod{Spec: corev1.PodSpec{Containers: two, InitContainers: inits}, Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{
			{Name: "i", State: running}, {Name: "j", State: waiting("PodInitializing")},
		}}}, [3]string{"0/2", "Init:0/2", "0"}},
		"second init container fails": {corev1.Pod{Spec: corev1.PodSpec{Containers: two, InitContainers: inits}, Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{
			{Name: "i", State: ended(0, "Completed")}, {Name: "j", State: ended(1, "Error"), RestartCount: 1},
		}}}, [3]string{"0/2", "Init:Error", "1"}},
		"init container crash loops": {corev1.Pod{Spec: corev1.PodSpec{Containers: two, InitContainers: inits[:1]}, Status: corev1.PodStatus{Phase: "Pending", InitContainerStatuses: []corev1.ContainerStatus{
			{Name: "i", State: waiting("CrashLoopBackOff"), RestartCount: 4},
		}}}, [3]string{"0/2", "Init:CrashLoopBackOff", "4"}},
		"sidecar counts": {corev1.Pod{Spec: corev1.PodSpec{Containers: two[:1], InitContainers: sidecar}, Status: corev1.PodStatus{
			Phase: "Running", Conditions: ready,
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "s", Ready: true, Started: new(true), State: running, RestartCount: 1}},
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "a", Ready: true, State: running}},
		}}, [3]string{"2/2", "Running", "1"}},
		"terminating": {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Spec: corev1.PodSpec{Containers: two[:1]}, Status: corev1.PodStatus{Phase: "Running", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", Ready: true, State: running},
		}}}, [3]string{"1/1", "Terminating", "0"}},
		"node lost": {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Spec: corev1.PodSpec{Containers: two[:1]}, Status: corev1.PodStatus{Phase: "Running", Reason: "NodeLost"}}, [3]string{"0/1", "Unknown", "0"}},
		"deleted but done": {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Spec: corev1.PodSpec{Containers: two[:1]}, Status: corev1.PodStatus{Phase: "Succeeded", ContainerStatuses: []corev1.ContainerStatus{
			{Name: "a", State: ended(0, "Completed")},
		}}}, [3]string{"0/1", "Completed", "0"}},
	}
	columns := podColumns()
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := [3]string{columns[1].Get(&tc.pod).(string), columns[2].Get(&tc.pod).(string), columns[3].Get(&tc.pod).(string)}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("ready, status, restarts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestColumnNames(t *testing.T) {
	want := []string{"Name", "Ready", "Status", "Restarts", "Age", "IP", "Node", "Nominated Node", "Readiness Gates"}
	var got []string
	for _, column := range podColumns() {
		got = append(got, column.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
}
