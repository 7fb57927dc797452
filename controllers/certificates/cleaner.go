package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// How long a request is kept in each state, for people to look at.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// AddCleaner wires the controller that removes old requests.
func AddCleaner(e *env.Env) error {
	requests, err := env.Lister(e, &certificatesv1.CertificateSigningRequest{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		csr, ok := requests.Find("", req.Name)
		if !ok {
			return ctrl.Result{}, nil
		}
		if wait := expiry(csr).Sub(e.Clock.Now()); wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		err := e.Client.Delete(ctx, csr.DeepCopy(), client.Preconditions{UID: new(csr.UID)})
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return e.Controller("certificatesigningrequest-cleaner", 1, reconcile, env.For(&certificatesv1.CertificateSigningRequest{}))
}

// expiry returns when a request may be removed.
func expiry(csr *certificatesv1.CertificateSigningRequest) time.Time {
	expires := csr.CreationTimestamp.Add(keepPending)
	if !pending(csr) && (len(csr.Status.Certificate) > 0 || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed)) {
		for _, c := range csr.Status.Conditions {
			expires = earlier(expires, c.LastUpdateTime.Add(keepDecided))
		}
	}
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			expires = earlier(expires, cert.NotAfter)
		}
	}
	return expires
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
