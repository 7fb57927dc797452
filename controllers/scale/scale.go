// Package scale reads and writes the scale subresource of objects of any kind.
package scale

import (
	"context"
	"fmt"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Target names an object that has a scale.
type Target struct {
	metav1.TypeMeta
	Namespace, Name string
}

func (t Target) object() *unstructured.Unstructured {
	obj := &unstructured.Unstructured{}
	obj.SetAPIVersion(t.APIVersion)
	obj.SetKind(t.Kind)
	obj.SetNamespace(t.Namespace)
	obj.SetName(t.Name)
	return obj
}

// Get reads the scale of an object. The error of the API server is returned as it is.
func Get(ctx context.Context, c client.Client, target Target) (*autoscalingv1.Scale, error) {
	read := empty()
	if err := c.SubResource("scale").Get(ctx, target.object(), read); err != nil {
		return nil, err
	}
	out := &autoscalingv1.Scale{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(read.Object, out); err != nil {
		return nil, fmt.Errorf("read scale of %s %s: %w", target.Kind, target.Name, err)
	}
	return out, nil
}

// Update writes the scale of an object.
func Update(ctx context.Context, c client.Client, target Target, next *autoscalingv1.Scale) error {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(next)
	if err != nil {
		return fmt.Errorf("write scale of %s %s: %w", target.Kind, target.Name, err)
	}
	body := empty()
	maps.Copy(body.Object, fields)
	body.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	return c.SubResource("scale").Update(ctx, target.object(), client.WithSubResourceBody(body))
}

func empty() *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	return u
}
