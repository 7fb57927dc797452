package node

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// decision returns why a node may not do something; empty means that it may.
type decision func(r related, node string, request authorizer.Attributes) string

// decisions are those about resources for which it matters which node asks, by group/resource.
var decisions = map[string]decision{
	"/secrets":                                   readRelated,
	"/configmaps":                                readRelated,
	"/persistentvolumeclaims":                    getOrWriteStatus,
	"/persistentvolumes":                         getRelated,
	"/serviceaccounts":                           serviceAccount,
	"/nodes":                                     ownNode,
	"/pods":                                      ownPods,
	"resource.k8s.io/resourceclaims":             getRelated,
	"resource.k8s.io/resourceslices":             ownSlices,
	"storage.k8s.io/volumeattachments":           getRelated,
	"storage.k8s.io/csinodes":                    ownCSINode,
	"coordination.k8s.io/leases":                 ownLease,
	"certificates.k8s.io/podcertificaterequests": ownCertificates,
}

const noRelation = "no relationship found between node '%s' and this object"

// readRelated allows to read single objects that a pod of the node names; list and watch must name them too.
func readRelated(r related, node string, request authorizer.Attributes) string {
	switch {
	case !slices.Contains([]string{"get", "list", "watch"}, request.GetVerb()):
		return "can only read resources of this type"
	case request.GetSubresource() != "":
		return "cannot read subresource"
	case request.GetNamespace() == "":
		return "can only read namespaced object of this type"
	}
	return needsRelation(r, node, request)
}

func getRelated(r related, node string, request authorizer.Attributes) string {
	switch {
	case request.GetVerb() != "get":
		return "can only get individual resources of this type"
	case request.GetSubresource() != "":
		return "cannot get subresource"
	}
	return needsRelation(r, node, request)
}

func needsRelation(r related, node string, request authorizer.Attributes) string {
	if request.GetName() == "" {
		return "no object name found"
	}
	if !r.related(node, request.GetResource(), request.GetNamespace(), request.GetName()) {
		return fmt.Sprintf(noRelation, node)
	}
	return ""
}

func getOrWriteStatus(r related, node string, request authorizer.Attributes) string {
	if request.GetSubresource() != "status" {
		return getRelated(r, node, request)
	}
	if !slices.Contains([]string{"update", "patch"}, request.GetVerb()) {
		return "can only update status of this type"
	}
	return needsRelation(r, node, request)
}

// serviceAccount allows to create tokens of, and to read, the accounts of the node's pods.
func serviceAccount(r related, node string, request authorizer.Attributes) string {
	if request.GetSubresource() != "token" {
		return readRelated(r, node, request)
	}
	if request.GetVerb() != "create" {
		return "can only create tokens for individual service accounts"
	}
	return needsRelation(r, node, request)
}

// ownNode allows a node to register itself and to write its own Node, which NodeRestriction checks further.
func ownNode(_ related, node string, request authorizer.Attributes) string {
	switch request.GetSubresource() {
	case "":
		switch request.GetVerb() {
		case "create", "update", "patch":
			return ""
		case "get", "list", "watch":
			if request.GetName() != node {
				return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, request.GetName())
			}
			return ""
		}
	case "status":
		switch request.GetVerb() {
		case "update", "patch":
			return ""
		}
	}
	return "can only create, read and update the own Node"
}

// ownPods allows to read the pods that are bound to the node, and to write what NodeRestriction checks further.
func ownPods(r related, node string, request authorizer.Attributes) string {
	verb := request.GetVerb()
	switch request.GetSubresource() {
	case "":
		switch verb {
		case "get":
			return needsRelation(r, node, request)
		case "list", "watch":
			if selectsNode(request, node) || (request.GetName() != "" && needsRelation(r, node, request) == "") {
				return ""
			}
			return "can only list/watch pods with spec.nodeName field selector"
		case "create", "delete":
			return ""
		}
	case "status":
		if verb == "update" || verb == "patch" {
			return ""
		}
	case "eviction":
		if verb == "create" {
			return ""
		}
	}
	return fmt.Sprintf("nodes cannot %s pods/%s", verb, request.GetSubresource())
}

// ownCertificates allows to make certificate requests, which NodeRestriction checks further, and to read those of the node.
func ownCertificates(r related, node string, request authorizer.Attributes) string {
	switch verb := request.GetVerb(); {
	case request.GetSubresource() != "":
		return "nodes may not access the status subresource of PodCertificateRequests"
	case verb == "create":
		return ""
	case verb == "get":
		return needsRelation(r, node, request)
	case verb != "list" && verb != "watch":
		return fmt.Sprintf("nodes may not %s podcertificaterequests", verb)
	case selectsNode(request, node):
		return ""
	}
	return "can only list/watch podcertificaterequests with nodeName field selector"
}

func selectsNode(request authorizer.Attributes, node string) bool {
	requirements, err := request.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range requirements {
		if r.Field == "spec.nodeName" && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals || r.Operator == selection.In) {
			return r.Value == node
		}
	}
	return false
}

// ownSlices allows to publish the devices of the node, and to write and read what was published for it alone.
func ownSlices(r related, node string, request authorizer.Attributes) string {
	switch verb := request.GetVerb(); {
	case request.GetSubresource() != "":
		return "cannot authorize ResourceSlice subresources"
	case verb == "create":
		return "" // NodeRestriction looks at the node name in the object
	case slices.Contains([]string{"get", "update", "patch", "delete"}, verb):
		return needsRelation(r, node, request)
	case !slices.Contains([]string{"list", "watch", "deletecollection"}, verb):
		return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
	case selectsNode(request, node):
		return ""
	}
	return "can only list/watch/deletecollection resourceslices with nodeName field selector"
}

func ownCSINode(_ related, node string, request authorizer.Attributes) string {
	return ownNamed(node, request)
}

func ownLease(_ related, node string, request authorizer.Attributes) string {
	if request.GetNamespace() != corev1.NamespaceNodeLease {
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	return ownNamed(node, request)
}

// ownNamed allows everything but lists on the object that has the node's name. A create does not tell the name yet; admission
// checks it.
func ownNamed(node string, request authorizer.Attributes) string {
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, request.GetVerb()):
		return "can only get, create, update, patch, or delete an object of this type"
	case request.GetSubresource() != "":
		return "cannot authorize subresources of this type"
	case request.GetVerb() != "create" && request.GetName() != node:
		return "can only access the object with the same name as the requesting node"
	}
	return ""
}
