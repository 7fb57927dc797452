package subresources

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Register lets a scheme read the options of connections from query parameters, and bodies of subresources in versions that are not
// served any more: the fields are the same.
func Register(scheme *runtime.Scheme) error {
	scheme.AddKnownTypeWithName(oldPolicy.WithKind("Eviction"), &policyv1.Eviction{})
	for _, gv := range []schema.GroupVersion{{Group: "extensions", Version: "v1beta1"}, {Group: "apps", Version: "v1beta1"}, {Group: "apps", Version: "v1beta2"}} {
		scheme.AddKnownTypeWithName(gv.WithKind("Scale"), &autoscalingv1.Scale{})
	}
	for _, options := range []any{
		(*corev1.PodExecOptions)(nil), (*corev1.PodAttachOptions)(nil), (*corev1.PodLogOptions)(nil), (*corev1.PodPortForwardOptions)(nil),
		(*corev1.PodProxyOptions)(nil), (*corev1.NodeProxyOptions)(nil), (*corev1.ServiceProxyOptions)(nil),
	} {
		err := scheme.AddConversionFunc((*url.Values)(nil), options, func(in, out any, _ conversion.Scope) error {
			return decodeParameters(*in.(*url.Values), reflect.ValueOf(out).Elem())
		})
		if err != nil {
			return fmt.Errorf("register parameters of %T: %w", options, err)
		}
	}
	return nil
}

// decodeParameters sets the fields of a struct from the parameters of their JSON names.
func decodeParameters(values url.Values, out reflect.Value) error {
	for i := range out.NumField() {
		name, _, _ := strings.Cut(out.Type().Field(i).Tag.Get("json"), ",")
		given, ok := values[name]
		if name == "" || !ok || len(given) == 0 {
			continue
		}
		if err := setParameter(out.Field(i), given); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return nil
}

func setParameter(field reflect.Value, given []string) error {
	if field.Kind() == reflect.Pointer {
		if field.Type() == reflect.TypeFor[*metav1.Time]() {
			return setTime(field, given[0])
		}
		target := reflect.New(field.Type().Elem())
		if err := setParameter(target.Elem(), given); err != nil {
			return err
		}
		field.Set(target)
		return nil
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(given[0])
	case reflect.Bool: // as everywhere in the API, a flag without value is set
		field.SetBool(!strings.EqualFold(given[0], "false") && given[0] != "0")
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(given[0], 10, field.Type().Bits())
		if err != nil {
			return err
		}
		field.SetInt(n)
	case reflect.Slice:
		return setSlice(field, given)
	default:
		return fmt.Errorf("type %s cannot be a parameter", field.Type())
	}
	return nil
}

func setSlice(field reflect.Value, given []string) error {
	slice := reflect.MakeSlice(field.Type(), 0, len(given))
	for _, g := range given {
		parts := []string{g}
		if field.Type().Elem().Kind() != reflect.String {
			parts = strings.Split(g, ",") // ports may come in one parameter
		}
		for _, part := range parts {
			item := reflect.New(field.Type().Elem()).Elem()
			if err := setParameter(item, []string{part}); err != nil {
				return err
			}
			slice = reflect.Append(slice, item)
		}
	}
	field.Set(slice)
	return nil
}

func setTime(field reflect.Value, given string) error {
	if given == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, given)
	if err != nil {
		return err
	}
	field.Set(reflect.ValueOf(&metav1.Time{Time: t.Local()}))
	return nil
}
