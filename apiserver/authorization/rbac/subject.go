package rbac

import (
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// bySubject is the name of the index of bindings.
const bySubject = "keelson/rbac-subject"

// subject is one name under which a user appears in bindings.
type subject struct {
	kind, namespace, name string
}

// key is the subject's key in the index of the bindings of a namespace; "" is the index of cluster role bindings.
func (s subject) key(namespace string) string {
	return namespace + "|" + s.kind + "|" + s.namespace + "|" + s.name
}

func (s subject) String() string {
	if s.kind == rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.kind, s.name+"/"+s.namespace)
	}
	return fmt.Sprintf("%s %q", s.kind, s.name)
}

// subjectsOf returns every subject that a user is. Groups come first: most rights are given to groups.
func subjectsOf(who user.Info) []subject {
	groups := who.GetGroups()
	all := make([]subject, 0, len(groups)+2)
	for _, group := range groups {
		all = append(all, subject{kind: rbacv1.GroupKind, name: group})
	}
	all = append(all, subject{kind: rbacv1.UserKind, name: who.GetName()})
	if namespace, name, err := serviceaccount.SplitUsername(who.GetName()); err == nil {
		all = append(all, subject{kind: rbacv1.ServiceAccountKind, namespace: namespace, name: name})
	}
	return all
}

func indexClusterRoleBinding(obj any) ([]string, error) {
	binding, ok := obj.(*rbacv1.ClusterRoleBinding)
	if !ok {
		return nil, fmt.Errorf("not a ClusterRoleBinding: %T", obj)
	}
	return subjectKeys(binding.Subjects, ""), nil
}

func indexRoleBinding(obj any) ([]string, error) {
	binding, ok := obj.(*rbacv1.RoleBinding)
	if !ok {
		return nil, fmt.Errorf("not a RoleBinding: %T", obj)
	}
	return subjectKeys(binding.Subjects, binding.Namespace), nil
}

func subjectKeys(subjects []rbacv1.Subject, namespace string) []string {
	keys := make([]string, 0, len(subjects))
	for _, s := range subjects {
		of := subject{kind: s.Kind, name: s.Name}
		if s.Kind == rbacv1.ServiceAccountKind {
			// A service account is in the binding's namespace unless it says otherwise.
			of.namespace = s.Namespace
			if of.namespace == "" {
				of.namespace = namespace
			}
			if of.namespace == "" {
				continue
			}
		}
		keys = append(keys, of.key(namespace))
	}
	return keys
}
