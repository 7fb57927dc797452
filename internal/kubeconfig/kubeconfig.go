// Package kubeconfig writes kubeconfig files: for the components of a server, for a node's bootstrap, and into the user's own.
package kubeconfig

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"keelson.dev/internal/statefile"
)

// Entry is one cluster with one user of it. Either a client certificate or a token identifies the user.
type Entry struct {
	Name            string // of the cluster and the context
	User            string // empty: Name
	Server          string // https://host:port
	ServerName      string // that its certificate shows; empty: the host of Server
	CAPEM           []byte
	CertPEM, KeyPEM []byte
	Token           string
}

// Config returns a kubeconfig with the entry as its current context.
func (e Entry) Config() *clientcmdapi.Config {
	config := clientcmdapi.NewConfig()
	e.mergeInto(config)
	config.CurrentContext = e.Name
	return config
}

func (e Entry) user() string {
	if e.User != "" {
		return e.User
	}
	return e.Name
}

func (e Entry) mergeInto(config *clientcmdapi.Config) {
	config.Clusters[e.Name] = &clientcmdapi.Cluster{Server: e.Server, TLSServerName: e.ServerName, CertificateAuthorityData: e.CAPEM}
	config.AuthInfos[e.user()] = &clientcmdapi.AuthInfo{
		ClientCertificateData: e.CertPEM, ClientKeyData: e.KeyPEM, Token: e.Token,
	}
	config.Contexts[e.Name] = &clientcmdapi.Context{Cluster: e.Name, AuthInfo: e.user()}
}

// Write puts the entry into a file of its own, mode 0600.
func Write(path string, entry Entry) error {
	return write(path, entry.Config())
}

// Merge adds the entry to the kubeconfig at path, or replaces the entry of that name, and makes it the current context. All
// other entries stay as they are.
func Merge(path string, entry Entry) error {
	config, err := load(path)
	if err != nil {
		return err
	}
	entry.mergeInto(config)
	config.CurrentContext = entry.Name
	return write(path, config)
}

// Refresh replaces the entry of that name in the kubeconfig at path, if there is one.
func Refresh(path string, entry Entry) error {
	config, err := load(path)
	if err != nil || config.Clusters[entry.Name] == nil {
		return err
	}
	entry.mergeInto(config)
	return write(path, config)
}

// Remove takes the named cluster, context and user out of the kubeconfig at path. Absent entries and files are no error.
func Remove(path, name string) error {
	config, err := load(path)
	if err != nil {
		return err
	}
	if _, present := config.Contexts[name]; !present {
		return nil
	}
	delete(config.AuthInfos, config.Contexts[name].AuthInfo)
	delete(config.Clusters, name)
	delete(config.Contexts, name)
	if config.CurrentContext == name {
		config.CurrentContext = ""
	}
	return write(path, config)
}

// UserPath is the file that kubectl reads by default: the first of $KUBECONFIG, or ~/.kube/config.
func UserPath() string {
	return clientcmd.NewDefaultPathOptions().GetDefaultFilename()
}

func load(path string) (*clientcmdapi.Config, error) {
	config, err := clientcmd.LoadFromFile(path)
	if os.IsNotExist(err) {
		return clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	return config, nil
}

func write(path string, config *clientcmdapi.Config) error {
	data, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode kubeconfig: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make folder of kubeconfig: %w", err)
	}
	return statefile.Write(path, data, 0o600)
}
