package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"

	"keelson.dev/controllers/env"
	"keelson.dev/internal/lister"
)

// AddApprover wires the controller that approves the requests of kubelets.
func AddApprover(e *env.Env, workers int) error {
	requests, err := env.Lister(e, &certificatesv1.CertificateSigningRequest{})
	if err != nil {
		return err
	}
	nodes, err := env.Lister(e, &corev1.Node{})
	if err != nil {
		return err
	}
	a := &approver{clientset: e.Clientset, requests: requests, nodes: nodes, env: e}
	return e.Controller("certificatesigningrequest-approving", workers, a.reconcile,
		env.For(&certificatesv1.CertificateSigningRequest{}),
		// A serving request may come before the node has reported the addresses that it asks for.
		env.On(&corev1.Node{}, env.Changes[*corev1.Node]{
			Created: a.wakeServing,
			Updated: func(before, after *corev1.Node, q env.Queue) {
				if !slices.Equal(before.Status.Addresses, after.Status.Addresses) {
					a.wakeServing(after, q)
				}
			},
		}))
}

type approver struct {
	clientset kubernetes.Interface
	requests  lister.Of[*certificatesv1.CertificateSigningRequest]
	nodes     lister.Of[*corev1.Node]
	env       *env.Env
}

func (a *approver) wakeServing(node *corev1.Node, q env.Queue) {
	for _, csr := range a.requests.All() {
		if csr.Spec.SignerName == certificatesv1.KubeletServingSignerName && csr.Spec.Username == nodeUserPrefix+node.Name && pending(csr) {
			env.Add(q, types.NamespacedName{Name: csr.Name})
		}
	}
}

func pending(csr *certificatesv1.CertificateSigningRequest) bool {
	return len(csr.Status.Certificate) == 0 && !has(csr, certificatesv1.CertificateApproved) && !has(csr, certificatesv1.CertificateDenied) && !has(csr, certificatesv1.CertificateFailed)
}

func (a *approver) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	csr, ok := a.requests.Find("", req.Name)
	if !ok || !pending(csr) {
		return ctrl.Result{}, nil
	}
	request, err := parseRequest(csr)
	if err != nil {
		return ctrl.Result{}, nil //nolint:nilerr // admission rejects these; there is nothing to approve
	}
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return ctrl.Result{}, a.approveClient(ctx, csr, request)
	case certificatesv1.KubeletServingSignerName:
		if a.ownAddresses(csr, request) {
			return ctrl.Result{}, a.approve(ctx, csr, "Auto approving kubelet serving certificate for the node's own names and addresses.")
		}
	}
	return ctrl.Result{}, nil
}

// clientRules are the two ways to a kubelet's client certificate: a bootstrapping user asks for some node, or a node renews its own.
var clientRules = []struct {
	subresource string
	applies     func(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) bool
	message     string
}{
	{"selfnodeclient", func(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) bool {
		return csr.Spec.Username == request.Subject.CommonName
	}, "Auto approving self kubelet client certificate after SubjectAccessReview."},
	{
		"nodeclient", func(*certificatesv1.CertificateSigningRequest, *x509.CertificateRequest) bool { return true },
		"Auto approving kubelet client certificate after SubjectAccessReview.",
	},
}

func (a *approver) approveClient(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) error {
	if kubeletClient(request, csr.Spec.Usages) != nil {
		return nil //nolint:nilerr // not what a kubelet asks for: left to a person
	}
	for _, rule := range clientRules {
		if !rule.applies(csr, request) {
			continue
		}
		allowed, err := a.authorized(ctx, csr, rule.subresource)
		if err != nil {
			return err
		}
		if allowed {
			return a.approve(ctx, csr, rule.message)
		}
	}
	return nil
}

func (a *approver) authorized(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, value := range csr.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Subresource: subresource, Verb: "create", Version: "*",
		},
	}}
	answer, err := a.clientset.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	return answer.Status.Allowed, nil
}

// ownAddresses reports whether a node asks for a serving certificate for itself, and for nothing but its own names and addresses.
func (a *approver) ownAddresses(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) bool {
	name, isNode := strings.CutPrefix(csr.Spec.Username, nodeUserPrefix)
	if !isNode || request.Subject.CommonName != csr.Spec.Username || !slices.Contains(csr.Spec.Groups, nodesGroup) || kubeletServing(request, csr.Spec.Usages) != nil {
		return false
	}
	node, ok := a.nodes.Find("", name)
	if !ok {
		return false
	}
	known := []string{node.Name}
	for _, address := range node.Status.Addresses {
		known = append(known, address.Address)
	}
	for _, dns := range request.DNSNames {
		if !slices.Contains(known, dns) {
			return false
		}
	}
	for _, ip := range request.IPAddresses {
		if !slices.Contains(known, ip.String()) {
			return false
		}
	}
	return true
}

func (a *approver) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, message string) error {
	now := metav1.NewTime(a.env.Clock.Now())
	changed := csr.DeepCopy()
	changed.Status.Conditions = append(changed.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
		LastUpdateTime: now, LastTransitionTime: now,
	})
	_, err := a.clientset.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, changed, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("approve: %w", err)
	}
	return nil
}
