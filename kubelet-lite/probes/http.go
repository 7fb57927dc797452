package probes

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	userAgent    = "kube-probe/1.37"
	maxBody      = 10 << 10 // of a probe's answer that is read at all
	maxRedirects = 10
)

// Transport is for one request: no kept connection, no proxy, and no check of certificates that nobody could have signed for a pod IP.
func Transport() *http.Transport {
	return &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // what is asked is whether it answers
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        dialer().DialContext,
	}
}

func dialer() *net.Dialer { return &net.Dialer{Timeout: 30 * time.Second, KeepAlive: -1} }

// Port resolves a port number or the name of one of the container's ports.
func Port(port intstr.IntOrString, c *corev1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		if parsed, err := strconv.Atoi(port.StrVal); err == nil {
			n = parsed
		} else {
			for _, p := range c.Ports {
				if p.Name == port.StrVal {
					n = int(p.ContainerPort)
				}
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("couldn't find port: %s in %s", port.String(), c.Name)
	}
	return n, nil
}

// NewRequest builds the GET that a probe or hook describes.
func NewRequest(ctx context.Context, a *corev1.HTTPGetAction, c *corev1.Container, podIP string) (*http.Request, error) {
	port, err := Port(a.Port, c)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme = strings.ToLower(string(a.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", "*/*")
	seen := map[string]bool{}
	for _, h := range a.HTTPHeaders {
		key := http.CanonicalHeaderKey(h.Name)
		if !seen[key] {
			req.Header.Del(key)
			seen[key] = true
		}
		if h.Value == "" && (key == "Accept" || key == "User-Agent") {
			req.Header[key] = nil // an empty value asks for no header at all
			continue
		}
		req.Header.Add(key, h.Value)
		if key == "Host" {
			req.Host = h.Value
		}
	}
	return req, nil
}

func probeHTTP(ctx context.Context, a *corev1.HTTPGetAction, c *corev1.Container, podIP string) (ok bool, output string) {
	req, err := NewRequest(ctx, a, c, podIP)
	if err != nil {
		return false, err.Error()
	}
	client := &http.Client{Transport: Transport(), CheckRedirect: func(next *http.Request, via []*http.Request) error {
		switch {
		case next.URL.Hostname() != via[0].URL.Hostname():
			return http.ErrUseLastResponse
		case len(via) >= maxRedirects:
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return false, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return false, err.Error()
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return true, string(body)
	}
	return false, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)
}
