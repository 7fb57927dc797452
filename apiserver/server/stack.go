package server

import (
	"net/http"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// roomy is the first code of ours on the goroutine that the library starts for each request, with the chain of filters, routing,
// admission and storage still to come. It makes the stack as large as these need in one step: in steps, each of which copies what the
// stack holds by then, growing took 8 % of a request's time.
type roomy struct{ authenticator.Request }

// AuthenticateRequest implements authenticator.Request.
func (r roomy) AuthenticateRequest(request *http.Request) (*authenticator.Response, bool, error) {
	makeRoom(len(request.Header))
	return r.Request.AuthenticateRequest(request)
}

// makeRoom has a frame of 16 KB, which the runtime makes room for before it runs.
//
//go:noinline
func makeRoom(i int) byte {
	var room [16 << 10]byte
	room[i%len(room)] = 1
	return room[(i+1)%len(room)]
}
