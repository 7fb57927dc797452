package server

import (
	"net/http"
	"testing"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// TestRoomyNeedsNoURL: the request that a token review makes up has a header only.
func TestRoomyNeedsNoURL(t *testing.T) {
	inner := authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) { return nil, true, nil })
	if _, ok, err := (roomy{inner}).AuthenticateRequest(&http.Request{Header: http.Header{"Authorization": {"Bearer x"}}}); !ok || err != nil {
		t.Errorf("authenticated %v, error %v", ok, err)
	}
}
