package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"

	"keelson.dev/internal/apiclient"
	"keelson.dev/internal/bootstraptoken"
	"keelson.dev/internal/pki"
	"keelson.dev/lab/cluster"
)

// administrator is who makes tokens: the named lab cluster's, or else the one of the server on this machine.
type administrator struct {
	name               *string
	kubeconfig, pkiDir string
}

func (a *administrator) connect() (*rest.Config, kubernetes.Interface, error) {
	if a.kubeconfig == "" {
		a.kubeconfig = "/etc/kubernetes/admin.conf"
		err := viewCluster(*a.name, func(c *cluster.Cluster) error { a.kubeconfig, a.pkiDir = c.KubeconfigPath(), c.PKIDir(); return nil })
		if err != nil && !errors.Is(err, cluster.ErrNotFound) {
			return nil, nil, err
		}
	}
	config, err := apiclient.FromKubeconfig(a.kubeconfig, "token")
	if err != nil {
		return nil, nil, err
	}
	client, err := apiclient.Clientset(config)
	return config, client, err
}

func tokenCommand(name *string) *cobra.Command {
	a := administrator{name: name, pkiDir: "/etc/kubernetes/pki"}
	command := &cobra.Command{Use: "token", Short: "Tokens by which machines join a cluster"}
	command.PersistentFlags().StringVar(&a.kubeconfig, "kubeconfig", "", "of an administrator (default: the lab cluster's, or else this server's)")
	command.AddCommand(tokenCreateCommand(&a), tokenListCommand(&a), &cobra.Command{
		Use: "rm ID", Short: "Make a token useless", Args: cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			_, client, err := a.connect()
			if err != nil {
				return err
			}
			return client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(command.Context(), bootstraputil.BootstrapTokenSecretName(args[0]), metav1.DeleteOptions{})
		},
	})
	return command
}

func tokenCreateCommand(a *administrator) *cobra.Command {
	var (
		server bool
		life   = 24 * time.Hour
	)
	command := &cobra.Command{
		Use: "create", Short: "Make a token and print the command that joins a machine", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			config, client, err := a.connect()
			if err != nil {
				return err
			}
			if err := rest.LoadTLSFiles(config); err != nil {
				return fmt.Errorf("read cluster authority: %w", err)
			}
			hash, err := bootstraptoken.HashPEM(config.CAData)
			if err != nil {
				return err
			}
			if !server {
				token, err := bootstraptoken.Create(command.Context(), client, life)
				if err == nil {
					fmt.Printf("keelson agent --server %s --token %s --ca-hash %s\n", config.Host, token, hash)
				}
				return err
			}
			files, err := pki.ReadShared(a.pkiDir)
			if err != nil {
				return err
			}
			token, err := bootstraptoken.CreateServer(command.Context(), client, life, files)
			if err == nil {
				fmt.Printf("keelson server --advertise-address ADDRESS --join %s --token %s --ca-hash %s\n", config.Host, token, hash)
			}
			return err
		},
	}
	command.Flags().BoolVar(&server, "server", false, "for a server, which gets the cluster's keys; for nodes if not given")
	command.Flags().DurationVar(&life, "ttl", life, "how long the token can be used")
	command.Flags().StringVar(&a.pkiDir, "pki-dir", a.pkiDir, "folder of the keys that servers share")
	return command
}

func tokenListCommand(a *administrator) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List tokens, without their secrets", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			_, client, err := a.connect()
			if err != nil {
				return err
			}
			return listTokens(command.Context(), client)
		},
	}
}

func listTokens(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken),
	})
	if err != nil {
		return fmt.Errorf("list tokens: %w", err)
	}
	table := newTable(os.Stdout)
	fmt.Fprintln(table, "ID\tEXPIRES\tDESCRIPTION")
	for _, s := range list.Items {
		expires := "never"
		if at := s.Data[bootstrapapi.BootstrapTokenExpirationKey]; len(at) > 0 {
			expires = string(at)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", s.Data[bootstrapapi.BootstrapTokenIDKey], expires, s.Data[bootstrapapi.BootstrapTokenDescriptionKey])
	}
	return table.Flush()
}
