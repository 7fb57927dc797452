// Package addons holds the objects that a new cluster starts with, as the YAML files that a user would write, and applies them.
package addons

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/template"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
)

//go:embed *.yaml
var files embed.FS

// fieldManager owns the fields that addons set.
const fieldManager = "keelson"

// DNS is what the coredns addon is told.
type DNS struct {
	Domain, DNSAddress, Image string
	Replicas                  int
}

// Demo is what the demo addon is told.
type Demo struct{ Image string }

// MetricsServer is what the metrics-server addon is told: the certificate that it serves with, and the authority that issued that.
type MetricsServer struct{ Image, CertBase64, KeyBase64, AuthorityBase64 string }

// Ingress is what the ingress addon is told.
type Ingress struct{ Image string }

// Apply applies the addon of that name, server-side, with values for its placeholders. Applying twice changes nothing.
func Apply(ctx context.Context, client dynamic.Interface, name string, values any) error {
	objects, err := Objects(name, values)
	if err != nil {
		return err
	}
	if err := apply(ctx, client, objects); err != nil {
		return fmt.Errorf("addon %s: %w", name, err)
	}
	return nil
}

// ApplyFile applies the objects of a YAML file likewise.
func ApplyFile(ctx context.Context, client dynamic.Interface, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open manifest: %w", err)
	}
	defer file.Close()
	objects, err := decode(file)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", path, err)
	}
	return apply(ctx, client, objects)
}

// typePatience is how long the API server may take to serve a type that was defined just before.
const typePatience = 30 * time.Second

func apply(ctx context.Context, client dynamic.Interface, objects []*unstructured.Unstructured) error {
	for _, object := range objects {
		var last error
		err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, typePatience, true, func(ctx context.Context) (bool, error) {
			_, last = resource(client, object).Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
			if apierrors.IsNotFound(last) {
				return false, nil
			}
			return true, last
		})
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", object.GetKind(), object.GetName(), cmp.Or(last, err))
		}
	}
	return nil
}

// Remove deletes what the addon consists of, last first. What is gone already is no error.
func Remove(ctx context.Context, client dynamic.Interface, name string, values any) error {
	objects, err := Objects(name, values)
	if err != nil {
		return err
	}
	for _, object := range slices.Backward(objects) {
		background := metav1.DeletePropagationBackground
		err := resource(client, object).Delete(ctx, object.GetName(), metav1.DeleteOptions{PropagationPolicy: &background})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("addon %s: delete %s %s: %w", name, object.GetKind(), object.GetName(), err)
		}
	}
	return nil
}

func resource(client dynamic.Interface, object *unstructured.Unstructured) dynamic.ResourceInterface {
	plural, _ := meta.UnsafeGuessKindToResource(object.GroupVersionKind())
	if namespace := object.GetNamespace(); namespace != "" {
		return client.Resource(plural).Namespace(namespace)
	}
	return client.Resource(plural)
}

// Objects returns what the addon consists of.
func Objects(name string, values any) ([]*unstructured.Unstructured, error) {
	parsed, err := template.ParseFS(files, name+".yaml")
	if err != nil {
		return nil, fmt.Errorf("addon %s: %w", name, err)
	}
	var text bytes.Buffer
	if err := parsed.Execute(&text, values); err != nil {
		return nil, fmt.Errorf("addon %s: %w", name, err)
	}
	objects, err := decode(&text)
	if err != nil {
		return nil, fmt.Errorf("addon %s: %w", name, err)
	}
	return objects, nil
}

func decode(text io.Reader) ([]*unstructured.Unstructured, error) {
	decoder := yaml.NewYAMLOrJSONDecoder(text, 4096)
	var objects []*unstructured.Unstructured
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		switch {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, err
		case len(object.Object) > 0: // a comment alone is none
			objects = append(objects, object)
		}
	}
}
