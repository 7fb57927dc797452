package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/bootstraptoken"
	"keelson.dev/internal/kubeconfig"
	"keelson.dev/internal/pki"
	"keelson.dev/internal/serverpool"
	"keelson.dev/internal/statefile"
)

// invitation is what a machine has to know to join a cluster beside its servers' addresses.
type invitation struct {
	token, tokenFile, caHash string
}

func (i *invitation) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&i.token, "token", "", "token of keelson token create, for a machine that has not joined yet")
	fs.StringVar(&i.tokenFile, "token-file", "", "file with the token: other users of the machine see arguments")
	fs.StringVar(&i.caHash, "ca-hash", "", "hash of the cluster authority's public key, sha256:..., by which its servers are known")
}

func (i *invitation) given() bool { return i.caHash != "" }

func (i *invitation) read() (string, error) {
	if i.tokenFile == "" {
		return i.token, nil
	}
	data, err := os.ReadFile(i.tokenFile)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// joinRetry is how often a cluster is asked that does not answer yet.
const joinRetry = 500 * time.Millisecond

// first tries the servers (host:port) in turn until one has done what was asked of it; what cannot succeed later is not tried again.
func first(ctx context.Context, servers []string, ask func(ctx context.Context, server string) error) error {
	reported := false
	var last error
	err := wait.PollUntilContextCancel(ctx, joinRetry, true, func(ctx context.Context) (bool, error) {
		for _, server := range servers {
			last = ask(ctx, server)
			if last == nil || errors.Is(last, bootstraptoken.ErrAuthority) {
				return true, last
			}
		}
		if !reported {
			reported = true
			klog.FromContext(ctx).Info("Waiting for the cluster to join", "err", last)
		}
		return false, nil
	})
	if err != nil && !errors.Is(err, last) {
		err = errors.Join(err, last)
	}
	return err
}

// authority writes the certificate of the cluster's authority where there is none.
func (i *invitation) authority(ctx context.Context, path string, servers []string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return first(ctx, servers, func(ctx context.Context, server string) error {
		data, err := bootstraptoken.Authority(ctx, server, serverpool.ServerName, i.caHash)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make folder of the cluster authority: %w", err)
		}
		return statefile.Write(path, data, 0o644)
	})
}

// node writes what a node's agent asks for its certificate with.
func (i *invitation) node(ctx context.Context, caPath, bootstrapPath string, servers []string) error {
	if err := i.authority(ctx, caPath, servers); err != nil {
		return err
	}
	authority, err := os.ReadFile(caPath)
	if err != nil {
		return fmt.Errorf("read cluster authority: %w", err)
	}
	token, err := i.read()
	if err != nil {
		return err
	}
	return kubeconfig.Write(bootstrapPath, kubeconfig.Entry{
		Name: "kubernetes", User: "kubelet-bootstrap", Server: "https://" + servers[0], ServerName: serverpool.ServerName, CAPEM: authority,
		Token: bootstraptoken.Bearer(token),
	})
}

// server fetches what all servers share.
func (i *invitation) server(ctx context.Context, pkiDir string, servers []string) error {
	if _, err := pki.ReadShared(pkiDir); err == nil {
		return nil
	}
	caPath := filepath.Join(pkiDir, "ca.crt")
	if err := i.authority(ctx, caPath, servers); err != nil {
		return err
	}
	token, err := i.read()
	if err != nil {
		return err
	}
	return first(ctx, servers, func(ctx context.Context, server string) error {
		client, err := apiclient.Clientset(apiclient.Config(&rest.Config{
			Host: (&url.URL{Scheme: "https", Host: server}).String(), BearerToken: bootstraptoken.Bearer(token),
			TLSClientConfig: rest.TLSClientConfig{CAFile: caPath, ServerName: serverpool.ServerName},
		}, "server"))
		if err != nil {
			return err
		}
		files, err := bootstraptoken.Files(ctx, client, token)
		if err != nil {
			return err
		}
		return pki.WriteShared(pkiDir, files)
	})
}
