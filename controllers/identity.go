package controllers

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/controller-manager/pkg/clientbuilder"

	"keelson.dev/controllers/env"
)

// actors gives controllers identities of their own: for each service account one Env.
type actors struct {
	process *env.Env
	known   map[string]*env.Env
}

// as returns the Env of a service account in kube-system, which is created if need be. Its tokens last for an hour and are renewed.
func (a *actors) as(account string) (*env.Env, error) {
	if e := a.known[account]; e != nil {
		return e, nil
	}
	base := a.process.Config
	anonymous := rest.AnonymousClientConfig(base)
	if base.WrapTransport != nil { // the lease's gate; credentials stand elsewhere
		anonymous.Wrap(base.WrapTransport)
	}
	anonymous.RateLimiter, anonymous.QPS, anonymous.WarningHandler, anonymous.ContentConfig = base.RateLimiter, base.QPS, base.WarningHandler, base.ContentConfig
	config, err := clientbuilder.NewDynamicClientBuilder(anonymous, a.process.Clientset.CoreV1(), metav1.NamespaceSystem).Config(account)
	if err != nil {
		return nil, err
	}
	e, err := a.process.As(config)
	if err != nil {
		return nil, err
	}
	if a.known == nil {
		a.known = map[string]*env.Env{}
	}
	a.known[account] = e
	return e, nil
}
