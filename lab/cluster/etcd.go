package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"keelson.dev/internal/etcdcluster"
	"keelson.dev/lab/snapshot"
)

// ExternalEtcd is an etcd cluster that somebody else runs, in place of the servers' own. Its files are copied.
type ExternalEtcd struct {
	Servers                   []string `json:"servers"` // client URLs
	CAFile, CertFile, KeyFile string   `json:"-"`       // empty: it asks for no certificates
	TLS                       bool     `json:"tls"`
}

// etcdPKI is the folder of the certificates for an external etcd, below a folder of certificates.
const etcdPKI = "external-etcd"

func etcdFiles(pkiDir string) etcdcluster.Credentials {
	dir := filepath.Join(pkiDir, etcdPKI)
	return etcdcluster.Credentials{
		CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "client.crt"), KeyFile: filepath.Join(dir, "client.key"),
	}
}

// useEtcd has a new cluster use an external etcd.
func (c *Cluster) useEtcd(etcd ExternalEtcd) error {
	if len(etcd.Servers) == 0 {
		return nil
	}
	c.Etcd = &etcd
	from := etcdcluster.Credentials{CAFile: etcd.CAFile, CertFile: etcd.CertFile, KeyFile: etcd.KeyFile}
	if etcd.TLS = from != (etcdcluster.Credentials{}); !etcd.TLS {
		return nil
	}
	if from.CAFile == "" || from.CertFile == "" || from.KeyFile == "" {
		return errors.New("--etcd-cafile, --etcd-certfile and --etcd-keyfile go together")
	}
	return copyCredentials(from, etcdFiles(c.PKIDir()))
}

func copyCredentials(from, to etcdcluster.Credentials) error {
	return errors.Join(copyFile(from.CAFile, to.CAFile), copyFile(from.CertFile, to.CertFile), copyFile(from.KeyFile, to.KeyFile))
}

// etcdArgs returns the flags by which a server uses an external etcd, and puts what they name into the node.
func (c *Cluster) etcdArgs(m Member) ([]string, error) {
	if c.Etcd == nil {
		return nil, nil
	}
	args := []string{"--etcd-servers", strings.Join(c.Etcd.Servers, ",")}
	if !c.Etcd.TLS {
		return args, nil
	}
	files := etcdFiles(pkiDir)
	args = append(args, "--etcd-cafile", files.CAFile, "--etcd-certfile", files.CertFile, "--etcd-keyfile", files.KeyFile)
	return args, copyCredentials(etcdFiles(c.PKIDir()), etcdFiles(c.Node(m).StatePath(pkiDir)))
}

// removeEtcdMember takes the database of a server out of those that count.
func (c *Cluster) removeEtcdMember(ctx context.Context, name string) error {
	if c.Etcd != nil {
		return nil
	}
	err := etcdcluster.Remove(ctx, c.etcdEndpoints(name), c.etcdCredentials(), name)
	if errors.Is(err, etcdcluster.ErrNotFound) { // it never joined, or this was begun before
		return nil
	}
	return err
}

// etcdEndpoints are the client URLs of the databases of all servers but the one called name.
func (c *Cluster) etcdEndpoints(name string) (urls []string) {
	if c.Etcd != nil {
		return c.Etcd.Servers
	}
	for _, m := range c.servers() {
		if m.Name != name {
			urls = append(urls, "https://"+net.JoinHostPort(m.Address.String(), "2379"))
		}
	}
	return urls
}

// etcdCredentials are the files by which this machine reaches the databases.
func (c *Cluster) etcdCredentials() etcdcluster.Credentials {
	switch {
	case c.Etcd == nil:
		client := filepath.Join(c.PKIDir(), "apiserver-etcd-client")
		return etcdcluster.Credentials{CAFile: filepath.Join(c.PKIDir(), "etcd/ca.crt"), CertFile: client + ".crt", KeyFile: client + ".key"}
	case c.Etcd.TLS:
		return etcdFiles(c.PKIDir())
	}
	return etcdcluster.Credentials{}
}

// etcdFlags are those of etcdctl.
func (c *Cluster) etcdFlags() []string {
	flags := []string{"--endpoints=" + strings.Join(c.etcdEndpoints(""), ",")}
	if files := c.etcdCredentials(); files != (etcdcluster.Credentials{}) {
		flags = append(flags, "--cacert="+files.CAFile, "--cert="+files.CertFile, "--key="+files.KeyFile)
	}
	return flags
}

// dialDatabase reaches the etcd of a server that runs, or the external one.
func (c *Cluster) dialDatabase(ctx context.Context) (*clientv3.Client, func(), error) {
	if c.Etcd != nil {
		client, err := etcdcluster.Dial(ctx, c.etcdEndpoints(""), c.etcdCredentials())
		if err != nil {
			return nil, nil, err
		}
		return client, func() { client.Close() }, nil
	}
	living := c.living()
	if len(living) == 0 {
		return nil, nil, fmt.Errorf("no server of cluster %s runs", c.Name)
	}
	return snapshot.Dial(c.Node(living[0]).StatePath(dataDir))
}
