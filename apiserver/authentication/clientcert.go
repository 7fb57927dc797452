package authentication

import (
	"crypto/x509"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
)

const (
	// rememberFor bounds how long a certificate of the chain can be past its end before that is noticed.
	rememberFor = time.Minute
	// rememberCount bounds the memory; beyond it, the client that was not seen for the longest time is verified again.
	rememberCount = 4096
)

// rememberingCertificates verifies the certificate of a connection once, not with each request: the signature check costs more
// than all other work of a read. It is verified again when the authorities change, after a minute, and for each connection.
type rememberingCertificates struct {
	verify  authenticator.Request
	options requestx509.VerifyOptionFunc
	clock   clock.PassiveClock
	known   *lru.Cache // *x509.Certificate, as parsed for a connection → verified
}

type verified struct {
	by       *x509.CertPool // a changed bundle of authorities is another pool
	until    time.Time
	response *authenticator.Response
}

func newClientCertificates(options requestx509.VerifyOptionFunc, clock clock.PassiveClock) authenticator.Request {
	return &rememberingCertificates{
		verify:  requestx509.NewDynamic(options, requestx509.CommonNameUserConversion),
		options: options, clock: clock, known: lru.New(rememberCount),
	}
}

// AuthenticateRequest implements authenticator.Request.
func (r *rememberingCertificates) AuthenticateRequest(request *http.Request) (*authenticator.Response, bool, error) {
	if request.TLS == nil || len(request.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	options, ok := r.options()
	if !ok {
		return nil, false, nil
	}
	leaf := request.TLS.PeerCertificates[0]
	if found, ok := r.known.Get(leaf); ok {
		v := found.(verified)
		if v.by == options.Roots && r.clock.Now().Before(v.until) {
			response := *v.response
			return &response, true, nil
		}
	}
	response, ok, err := r.verify.AuthenticateRequest(request)
	if err == nil && ok && options.Roots != nil {
		until := r.clock.Now().Add(rememberFor)
		if leaf.NotAfter.Before(until) {
			until = leaf.NotAfter
		}
		kept := *response
		r.known.Add(leaf, verified{options.Roots, until, &kept})
	}
	return response, ok, err
}
