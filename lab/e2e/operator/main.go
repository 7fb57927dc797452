// Command operator is a small operator as people write them with controller-runtime: for each Site it keeps a Deployment, and reports
// how many of its replicas are ready; webhooks complete, check and convert sites. The end-to-end tests run it in a cluster.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

func main() {
	namespace := flag.String("namespace", "default", "the one namespace to look after")
	certDir := flag.String("cert-dir", "/certs", "folder of tls.crt and tls.key, which the webhooks are served with")
	flag.Parse() // --kubeconfig is controller-runtime's own
	ctrl.SetLogger(klog.Background())
	if err := run(ctrl.SetupSignalHandler(), *namespace, *certDir); err != nil {
		fmt.Fprintln(os.Stderr, "operator:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, namespace, certDir string) error {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return err
	}
	scheme.AddKnownTypes(groupVersion, &Site{}, &SiteList{})
	scheme.AddKnownTypeWithName(oldGroupVersion.WithKind("Site"), &OldSite{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	// Short enough for a test to see another instance take over.
	lease, renew, retry := 4*time.Second, 3*time.Second, 500*time.Millisecond
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{namespace: {}}},
		Metrics:        server.Options{BindAddress: "0"},
		WebhookServer:  webhook.NewServer(webhook.Options{Port: 9443, CertDir: certDir}),
		LeaderElection: true, LeaderElectionID: "sites.e2e.keelson.dev", LeaderElectionNamespace: namespace,
		LeaseDuration: &lease, RenewDeadline: &renew, RetryPeriod: &retry,
	})
	if err != nil {
		return fmt.Errorf("create manager: %w", err)
	}
	err = ctrl.NewControllerManagedBy(manager).For(&Site{}).Owns(&appsv1.Deployment{}).Complete(&reconciler{manager.GetClient()})
	if err != nil {
		return fmt.Errorf("create controller: %w", err)
	}
	if err := serveWebhooks(manager); err != nil {
		return err
	}
	return manager.Start(ctx)
}

type reconciler struct{ client.Client }

// Reconcile makes the Deployment what the Site says, and the Site's status what the Deployment says.
func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var site Site
	if err := r.Get(ctx, req.NamespacedName, &site); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: site.Name, Namespace: site.Namespace}}
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, deployment, func() error {
		shape(deployment, &site)
		return controllerutil.SetControllerReference(&site, deployment, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, fmt.Errorf("write deployment: %w", err)
	}
	status := SiteStatus{ReadyReplicas: deployment.Status.ReadyReplicas, ObservedGeneration: site.Generation}
	if site.Status == status {
		return ctrl.Result{}, nil
	}
	site.Status = status
	return ctrl.Result{}, r.Status().Update(ctx, &site)
}

// shape changes of a Deployment what follows from its Site, and nothing else.
func shape(deployment *appsv1.Deployment, site *Site) {
	labels := map[string]string{"site": site.Name}
	deployment.Spec.Replicas = &site.Spec.Replicas
	deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	deployment.Spec.Template.Labels = labels
	if len(deployment.Spec.Template.Spec.Containers) == 0 {
		deployment.Spec.Template.Spec.Containers = []corev1.Container{{Name: "web"}}
	}
	deployment.Spec.Template.Spec.Containers[0].Image = site.Spec.Image
}
