package tokens

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// The paths of the OpenID discovery document and of the keys, fixed by OpenID Connect Discovery 1.0 and by convention.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/openid/v1/jwks"
)

// Mux is what handlers are installed in; it is the non-resource mux of the server.
type Mux interface {
	Handle(path string, handler http.Handler)
}

// Discovery serves the two documents that let others verify our tokens.
type Discovery struct {
	issuer, jwksURI string
	keys            Keys
}

type providerMetadata struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

// NewDiscovery describes an issuer. jwksURI may be empty: then it is the KeysPath below the server's external address. The
// issuer must be an https URL without query or fragment, else relying parties could not fetch anything below it.
func NewDiscovery(issuer, jwksURI, externalAddress string, keys Keys) (*Discovery, error) {
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("parse issuer URL: %w", err)
	}
	if u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("issuer URL %q must use https and have neither query nor fragment", issuer)
	}
	if jwksURI == "" {
		jwksURI = (&url.URL{Scheme: "https", Host: externalAddress, Path: KeysPath}).String()
	}
	return &Discovery{issuer: issuer, jwksURI: jwksURI, keys: keys}, nil
}

// Install serves both documents. Who may read them is decided by RBAC (system:service-account-issuer-discovery).
func (d *Discovery) Install(mux Mux) {
	mux.Handle(DiscoveryPath, d.serve("application/json", func(set jose.JSONWebKeySet) any { return d.metadata(set) }))
	mux.Handle(KeysPath, d.serve("application/jwk-set+json", func(set jose.JSONWebKeySet) any { return set }))
}

func (d *Discovery) metadata(set jose.JSONWebKeySet) providerMetadata {
	metadata := providerMetadata{
		Issuer: d.issuer, JWKSURI: d.jwksURI, ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"},
	}
	for _, key := range set.Keys {
		if !slices.Contains(metadata.Algorithms, key.Algorithm) {
			metadata.Algorithms = append(metadata.Algorithms, key.Algorithm)
		}
	}
	slices.Sort(metadata.Algorithms)
	return metadata
}

func (d *Discovery) serve(contentType string, document func(jose.JSONWebKeySet) any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := json.Marshal(document(d.keys.Keys(r.Context(), "").JWKS()))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(d.keys.MaxAge().Seconds())))
		_, _ = w.Write(body) // a client that is gone needs no answer
	})
}
