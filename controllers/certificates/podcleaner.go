package certificates

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"keelson.dev/controllers/env"
)

// keepPodRequests is how long a pod's certificate request is kept: its kubelet reads the answer at once, or asks again.
const keepPodRequests = 15 * time.Minute

// AddPodCleaner wires the controller that removes the certificate requests of pods, answered or not.
func AddPodCleaner(e *env.Env) error {
	requests, err := env.Lister(e, &certificatesv1.PodCertificateRequest{})
	if err != nil {
		return err
	}
	reconcile := func(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
		request, ok := requests.Find(req.Namespace, req.Name)
		if !ok {
			return ctrl.Result{}, nil
		}
		if wait := request.CreationTimestamp.Add(keepPodRequests).Sub(e.Clock.Now()); wait > 0 {
			return ctrl.Result{RequeueAfter: wait}, nil
		}
		err := e.Client.Delete(ctx, request.DeepCopy(), client.Preconditions{UID: new(request.UID)})
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return e.Controller("podcertificaterequest-cleaner", 1, reconcile, env.For(&certificatesv1.PodCertificateRequest{}))
}
