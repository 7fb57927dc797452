package server_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"keelson.dev/apiserver/server"
)

const sampleGroup = "sample.example.com"

// sample is an API server of one resource, which tells who asks.
func sample(frontProxies *x509.CertPool) http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, body any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body)
	}
	mux.HandleFunc("/apis/"+sampleGroup+"/v1", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: sampleGroup + "/v1",
			APIResources: []metav1.APIResource{{Name: "whoami", SingularName: "whoami", Kind: "WhoAmI", Verbs: metav1.Verbs{"get", "list"}}},
		})
	})
	mux.HandleFunc("/apis/"+sampleGroup+"/v1/whoami", func(w http.ResponseWriter, r *http.Request) {
		proven := ""
		if certificates := r.TLS.PeerCertificates; len(certificates) > 0 {
			if _, err := certificates[0].Verify(x509.VerifyOptions{Roots: frontProxies, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
				proven = certificates[0].Subject.CommonName
			}
		}
		answer(w, map[string]any{
			"kind": "WhoAmI", "apiVersion": sampleGroup + "/v1", "proxy": proven, "user": r.Header.Get("X-Remote-User"),
			"groups": r.Header.Values("X-Remote-Group"), "authorization": r.Header.Get("Authorization"),
		})
	})
	mux.HandleFunc("/openapi/v2", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"swagger": "2.0", "info": map[string]any{"title": "sample", "version": "v1"}, "paths": map[string]any{
			"/apis/" + sampleGroup + "/v1/whoami": map[string]any{"get": map[string]any{"operationId": "getWhoami", "responses": map[string]any{"200": map[string]any{"description": "OK"}}}},
		}})
	})
	return mux
}

func TestAggregatedServer(t *testing.T) {
	s := newServer(t, t.TempDir(), func(o *server.Options) {
		dir := strings.TrimSuffix(o.Authentication.ClientCAFile, "ca.crt")
		o.Proxy.ClientCertFile, o.Proxy.ClientKeyFile = dir+"front-proxy-client.crt", dir+"front-proxy-client.key"
	})
	frontProxies := x509.NewCertPool()
	frontProxies.AppendCertsFromPEM(readFile(t, s.pki("front-proxy-ca.crt")))
	b := s.newBackend(t, "default", sample(frontProxies))
	services := must(aggregatorclient.NewForConfig(s.loopback))(t).ApiregistrationV1().APIServices()
	must(services.Create(t.Context(), &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1." + sampleGroup},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: sampleGroup, Version: "v1", GroupPriorityMinimum: 1000, VersionPriority: 15, CABundle: b.authority,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "backend", Port: &b.port},
		},
	}, metav1.CreateOptions{}))(t)
	condition := func() apiregistrationv1.APIServiceCondition {
		for _, c := range must(services.Get(t.Context(), "v1."+sampleGroup, metav1.GetOptions{}))(t).Status.Conditions {
			if c.Type == apiregistrationv1.Available {
				return c
			}
		}
		return apiregistrationv1.APIServiceCondition{}
	}
	eventually(t, "the server is available", func() bool { return condition().Status == apiregistrationv1.ConditionTrue })
	eventually(t, "requests reach it, which learn of that later", func() bool {
		code, _ := s.raw(t, "GET", "/apis/"+sampleGroup+"/v1/whoami", "", "application/json", "")
		return code != http.StatusServiceUnavailable
	})

	t.Run("identity", func(t *testing.T) { s.testIdentity(t) })
	t.Run("documents", func(t *testing.T) { s.testDocuments(t, true) })
	b.Close()
	// The checks come by time; a change of the object brings the next at once.
	must(services.Patch(t.Context(), "v1."+sampleGroup, types.MergePatchType, []byte(`{"metadata":{"annotations":{"look":"again"}}}`), metav1.PatchOptions{}))(t)
	eventually(t, "the server is not available", func() bool {
		c := condition()
		return c.Status == apiregistrationv1.ConditionFalse && c.Reason == "FailedDiscoveryCheck"
	})
	t.Run("the rest goes on", func(t *testing.T) {
		if code, body := s.raw(t, "GET", "/apis/"+sampleGroup+"/v1/whoami", "", "application/json", ""); code != http.StatusServiceUnavailable {
			t.Errorf("%d %s", code, body)
		}
		if code, body := s.raw(t, "GET", "/readyz", "", "", ""); code != http.StatusOK {
			t.Errorf("readyz: %d %s", code, body)
		}
		must(s.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{}))(t)
		must(s.client.Discovery().ServerResourcesForGroupVersion("apps/v1"))(t)
	})
	if err := services.Delete(t.Context(), "v1."+sampleGroup, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Run("and is gone", func(t *testing.T) { s.testDocuments(t, false) })
}

// testIdentity asks as somebody; the sample server must learn who, from a proxy that proves itself, and get no credentials.
func (s *testServer) testIdentity(t *testing.T) {
	client := s.impersonate(t, "somebody", "system:masters", "friends")
	raw := must(client.Discovery().RESTClient().Get().AbsPath("/apis/" + sampleGroup + "/v1/whoami").DoRaw(t.Context()))(t)
	var who struct {
		Proxy, User, Authorization string
		Groups                     []string
	}
	if err := json.Unmarshal(raw, &who); err != nil {
		t.Fatal(err)
	}
	if who.Proxy != "front-proxy-client" || who.User != "somebody" || !slices.Contains(who.Groups, "friends") || who.Authorization != "" {
		t.Errorf("the sample server saw %+v", who)
	}
	stranger := s.impersonate(t, "stranger")
	if err := stranger.Discovery().RESTClient().Get().AbsPath("/apis/" + sampleGroup + "/v1/whoami").Do(t.Context()).Error(); err == nil {
		t.Error("authorization does not look at what goes elsewhere")
	}
}

func (s *testServer) testDocuments(t *testing.T, present bool) {
	eventually(t, fmt.Sprintf("discovery and OpenAPI have the group: %v", present), func() bool {
		groups, _, err := s.client.Discovery().ServerGroupsAndResources()
		listed := slices.ContainsFunc(groups, func(g *metav1.APIGroup) bool { return g.Name == sampleGroup })
		_, aggregated := s.raw(t, "GET", "/apis", "", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "")
		_, document := s.raw(t, "GET", "/openapi/v2", "", "application/json", "")
		return err == nil && listed == present && strings.Contains(aggregated, `"WhoAmI"`) == present &&
			strings.Contains(document, "/apis/"+sampleGroup+"/v1/whoami") == present && strings.Contains(document, "/apis/apps/v1/")
	})
}
