package controlplane

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/duomesh/duomesh/internal/cluster"
)

// clients are the administrator's ways to the API server.
type clients struct {
	client kubernetes.Interface
	// objects speaks of objects of any kind.
	objects *cluster.Client
	// dynamic watches kinds that have no type here.
	dynamic dynamic.Interface
}

func (c Config) clients(ca *authority, admin pair) (clients, error) {
	config := &rest.Config{
		Host: url("https", APIServerPort), Dial: c.Dial, QPS: -1, UserAgent: "duomesh-netsim",
		TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem, CertData: admin.cert, KeyData: admin.key},
	}
	all, err := cluster.Connect(config, metav1.NamespaceDefault)
	if err != nil {
		return clients{}, err
	}
	watch, err := dynamic.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("reach the API server: %w", err)
	}
	return clients{client: all, objects: all, dynamic: watch}, nil
}

// apiserverReady returns nil when the API server serves.
func (c clients) apiserverReady(ctx context.Context) error {
	return c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// Kubeconfig is the administrator's, for an API server that is reached at an
// address of the caller's: "https://host:port".
func (s *Stack) Kubeconfig(server string) ([]byte, error) {
	return kubeconfig(server, s.ca.pem, &clientapi.AuthInfo{
		ClientCertificateData: s.admin.cert, ClientKeyData: s.admin.key,
	})
}

func kubeconfig(server string, ca []byte, user *clientapi.AuthInfo) ([]byte, error) {
	const name = "duomesh"
	data, err := clientcmd.Write(clientapi.Config{
		Clusters:       map[string]*clientapi.Cluster{name: {Server: server, CertificateAuthorityData: ca}},
		AuthInfos:      map[string]*clientapi.AuthInfo{name: user},
		Contexts:       map[string]*clientapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
	if err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	return data, nil
}
