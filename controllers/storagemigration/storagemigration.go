// Package storagemigration rewrites all objects of a resource, as a StorageVersionMigration asks, so that they are stored in the
// current version and with the current encryption. The rewrite is a patch that changes nothing: the API server stores what is stale.
package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// page is how many objects are listed at once.
const page = 500

var definitions = schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"}

// Add wires the controller.
func Add(e *env.Env, workers int) error {
	migrations, err := env.Lister(e, &storagemigrationv1.StorageVersionMigration{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		found, ok := migrations.Find("", req.Name)
		if !ok || is(found, storagemigrationv1.MigrationSucceeded) || is(found, storagemigrationv1.MigrationFailed) {
			return ctrl.Result{}, nil
		}
		m := found.DeepCopy()
		now := metav1.NewTime(e.Clock.Now())
		resource := schema.GroupResource{Group: m.Spec.Resource.Group, Resource: m.Spec.Resource.Resource}
		gvr, err := e.Manager.GetRESTMapper().ResourceFor(resource.WithVersion(""))
		if apimeta.IsNoMatchError(err) {
			set(m, storagemigrationv1.MigrationFailed, metav1.ConditionTrue, "StorageVersionMigrationFailed", fmt.Sprintf("no such resource is served: %v", err), now)
			return ctrl.Result{}, client.IgnoreNotFound(e.Client.Status().Update(ctx, m))
		}
		if err != nil {
			return ctrl.Result{}, fmt.Errorf("find %s: %w", resource, err)
		}
		if !is(m, storagemigrationv1.MigrationRunning) {
			set(m, storagemigrationv1.MigrationRunning, metav1.ConditionTrue, "StorageVersionMigrationInProgress", "", now)
			return ctrl.Result{}, client.IgnoreNotFound(e.Client.Status().Update(ctx, m)) // our own event goes on
		}
		definition, err := definitionOf(ctx, e.Client, resource)
		if err != nil {
			return ctrl.Result{}, err
		}
		version, err := rewrite(ctx, e.Metadata.Resource(gvr))
		if err != nil {
			return ctrl.Result{}, fmt.Errorf("migrate %s: %w", resource, err)
		}
		if err := forgetVersions(ctx, e.Client, definition); err != nil {
			return ctrl.Result{}, err
		}
		m.Status.ResourceVersion = version
		set(m, storagemigrationv1.MigrationRunning, metav1.ConditionFalse, "StorageVersionMigrationInProgress", "", now)
		set(m, storagemigrationv1.MigrationSucceeded, metav1.ConditionTrue, "StorageVersionMigrationSucceeded", "", now)
		return ctrl.Result{}, client.IgnoreNotFound(e.Client.Status().Update(ctx, m))
	}
	return e.Controller("storage-version-migrator", workers, reconcile, env.For(&storagemigrationv1.StorageVersionMigration{}))
}

// rewrite stores every object again and returns the resource version as of which all were listed. An object that is gone or that
// somebody else has written meanwhile needs nothing.
func rewrite(ctx context.Context, c metadata.Getter) (string, error) {
	version := ""
	opts := metav1.ListOptions{Limit: page}
	for {
		list, err := c.List(ctx, opts)
		if err != nil {
			return "", fmt.Errorf("list: %w", err)
		}
		if version == "" {
			version = list.ResourceVersion
		}
		for i := range list.Items {
			item := &list.Items[i]
			body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": item.UID, "resourceVersion": item.ResourceVersion}})
			if err != nil {
				return "", fmt.Errorf("encode patch: %w", err)
			}
			_, err = c.Namespace(item.Namespace).Patch(ctx, item.Name, types.MergePatchType, body, metav1.PatchOptions{})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return "", fmt.Errorf("rewrite %s/%s: %w", item.Namespace, item.Name, err)
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return version, nil
		}
	}
}

// definitionOf returns the CustomResourceDefinition of a resource, or nil if it is built in.
func definitionOf(ctx context.Context, c client.Client, resource schema.GroupResource) (*unstructured.Unstructured, error) {
	definition := &unstructured.Unstructured{}
	definition.SetGroupVersionKind(definitions)
	err := c.Get(ctx, types.NamespacedName{Name: resource.String()}, definition)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get definition: %w", err)
	}
	return definition, nil
}

// forgetVersions removes from a definition the versions that no object is stored in any more. If the definition has changed since
// before the migration, that fails as a conflict, and the migration begins again.
func forgetVersions(ctx context.Context, c client.Client, definition *unstructured.Unstructured) error {
	if definition == nil {
		return nil
	}
	stored, _, _ := unstructured.NestedStringSlice(definition.Object, "status", "storedVersions") // the API server keeps its type
	current := storageVersion(definition)
	if current == "" || len(stored) == 1 && stored[0] == current {
		return nil
	}
	before := definition.DeepCopy()
	if err := unstructured.SetNestedStringSlice(definition.Object, []string{current}, "status", "storedVersions"); err != nil {
		return fmt.Errorf("set stored versions: %w", err)
	}
	if err := c.Status().Patch(ctx, definition, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("update stored versions: %w", err)
	}
	return nil
}

func storageVersion(definition *unstructured.Unstructured) string {
	versions, _, _ := unstructured.NestedSlice(definition.Object, "spec", "versions") // the API server keeps its type
	for _, v := range versions {
		if version, ok := v.(map[string]any); ok && version["storage"] == true {
			name, _ := version["name"].(string)
			return name
		}
	}
	return ""
}

func is(m *storagemigrationv1.StorageVersionMigration, kind storagemigrationv1.MigrationConditionType) bool {
	return apimeta.IsStatusConditionTrue(m.Status.Conditions, string(kind))
}

func set(m *storagemigrationv1.StorageVersionMigration, kind storagemigrationv1.MigrationConditionType, status metav1.ConditionStatus, reason, message string, now metav1.Time) {
	apimeta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: string(kind), Status: status, Reason: reason, Message: message, LastTransitionTime: now})
}
