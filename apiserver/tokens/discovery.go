package tokens

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/emicklei/go-restful/v3"
	"github.com/go-jose/go-jose/v4"
)

// The paths of the OpenID discovery document and of the keys, fixed by OpenID Connect Discovery 1.0 and by convention.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/openid/v1/jwks"
)

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
func (d *Discovery) Install(container *restful.Container) {
	for _, document := range []struct {
		path, contentType, operation, doc string
		body                              func(jose.JSONWebKeySet) any
	}{
		{
			DiscoveryPath, "application/json", "getServiceAccountIssuerOpenIDConfiguration",
			"get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
			func(set jose.JSONWebKeySet) any { return d.metadata(set) },
		},
		{
			KeysPath, "application/jwk-set+json", "getServiceAccountIssuerOpenIDKeyset",
			"get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
			func(set jose.JSONWebKeySet) any { return set },
		},
	} {
		service := new(restful.WebService).Path(document.path).Produces(document.contentType)
		container.Add(service.Route(service.GET("").To(d.serve(document.contentType, document.body)).
			Operation(document.operation).Doc(document.doc).Returns(http.StatusOK, "OK", "")))
	}
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

func (d *Discovery) serve(contentType string, document func(jose.JSONWebKeySet) any) restful.RouteFunction {
	return func(r *restful.Request, w *restful.Response) {
		body, err := json.Marshal(document(d.keys.Keys(r.Request.Context(), "").JWKS()))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(d.keys.MaxAge().Seconds())))
		_, _ = w.Write(body) // a client that is gone needs no answer
	}
}
