package apiclient

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/rest"
)

// Poster creates objects of which nobody needs the answer, with half of the work of a typed client. Its zero value accepts nothing.
type Poster struct {
	base    string
	client  *http.Client
	encoder runtime.Encoder
}

// NewPoster returns a Poster that shares the connections of the config's clients.
func NewPoster(cfg *rest.Config) (*Poster, error) {
	client, err := HTTPClient(cfg)
	if err != nil {
		return nil, err
	}
	address, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	return &Poster{strings.TrimSuffix(address.String(), "/"), client, protobuf.NewSerializer(nil, nil)}, nil
}

// Post sends an object, which names its kind and version, to an absolute path. Without an error it says whether the server has accepted
// it; if not, nothing has been done, and a typed client says why when it tries. On an error nobody knows.
func (p *Poster) Post(ctx context.Context, path string, obj runtime.Object) (accepted bool, err error) {
	if p == nil || p.client == nil {
		return false, nil
	}
	var body bytes.Buffer
	if err := p.encoder.Encode(obj, &body); err != nil {
		return false, fmt.Errorf("encode: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.base+path, &body)
	if err != nil {
		return false, fmt.Errorf("post %s: %w", path, err)
	}
	request.Header.Set("Content-Type", runtime.ContentTypeProtobuf)
	request.Header.Set("Accept", runtime.ContentTypeProtobuf)
	response, err := p.client.Do(request)
	if err != nil {
		return false, fmt.Errorf("post %s: %w", path, err)
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return err == nil && response.StatusCode < http.StatusMultipleChoices, err
}
