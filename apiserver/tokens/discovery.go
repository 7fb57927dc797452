package tokens

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"keelson.dev/internal/satoken"
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

// Discovery holds the two documents that let others verify our tokens.
type Discovery struct {
	document, keys []byte
}

type providerMetadata struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

// NewDiscovery renders the documents. jwksURI may be empty: then it is the KeysPath below the server's external address. The
// issuer must be an https URL without query or fragment, else relying parties could not fetch anything below it.
func NewDiscovery(issuer, jwksURI, externalAddress string, keys *satoken.KeySet) (*Discovery, error) {
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
	set := keys.JWKS()
	metadata := providerMetadata{
		Issuer: issuer, JWKSURI: jwksURI, ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"},
	}
	for _, key := range set.Keys {
		if !slices.Contains(metadata.Algorithms, key.Algorithm) {
			metadata.Algorithms = append(metadata.Algorithms, key.Algorithm)
		}
	}
	slices.Sort(metadata.Algorithms)
	d := &Discovery{}
	if d.document, err = json.Marshal(metadata); err != nil {
		return nil, fmt.Errorf("render discovery document: %w", err)
	}
	if d.keys, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("render key set: %w", err)
	}
	return d, nil
}

// Install serves both documents. Who may read them is decided by RBAC (system:service-account-issuer-discovery).
func (d *Discovery) Install(mux Mux) {
	mux.Handle(DiscoveryPath, serve("application/json", d.document))
	mux.Handle(KeysPath, serve("application/jwk-set+json", d.keys))
}

func serve(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body) // a client that is gone needs no answer
	})
}
