package server

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apiserver/pkg/server/mux"
)

func TestDocumentsThatCannotBeBuiltAreUnhealthy(t *testing.T) {
	broken := errors.New("no such definition")
	served := mux.NewPathRecorderMux("test")
	second, third := handleOpenAPI(served,
		func(*mux.PathRecorderMux) error { return broken },
		func(m *mux.PathRecorderMux) error {
			m.HandleFunc("/openapi/v3", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
			return nil
		})
	if err := errors.Join(second.healthy(nil), third.healthy(nil)); err != nil {
		t.Errorf("before the first request: %v", err)
	}
	for path, want := range map[string]int{"/openapi/v2": http.StatusInternalServerError, "/openapi/v3": http.StatusOK} {
		recorder := httptest.NewRecorder()
		served.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		if recorder.Code != want {
			t.Errorf("%s: %d, want %d", path, recorder.Code, want)
		}
	}
	if err := second.healthy(nil); !errors.Is(err, broken) {
		t.Errorf("health of v2: %v, want %v", err, broken)
	}
	if err := third.healthy(nil); err != nil {
		t.Errorf("health of v3: %v", err)
	}
}
