// Package cluster is how the command reaches a Kubernetes cluster: by a kubeconfig,
// as kubectl does.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Where says which cluster: a kubeconfig and one of its contexts, each as kubectl
// finds it when it is empty.
type Where struct{ Kubeconfig, Context string }

// Client speaks to one cluster.
type Client struct {
	kubernetes.Interface
	// Host is the API server's URL, Namespace the one that the context names.
	Host, Namespace string

	config  *rest.Config
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

// Open reads the kubeconfig; nothing is asked yet.
func (w Where) Open() (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = w.Kubeconfig
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: w.Context})
	config, err := loaded.ClientConfig()
	if clientcmd.IsEmptyConfig(err) && w.Kubeconfig != "" {
		return nil, fmt.Errorf("kubeconfig %s leads to no cluster: has it a current context, and the cluster of that? --context names another", w.Kubeconfig)
	}
	if clientcmd.IsEmptyConfig(err) {
		return nil, errors.New("no cluster is named: set KUBECONFIG, or give --kubeconfig FILE")
	}
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.UserAgent, config.WarningHandler = "duomesh", rest.NoWarnings{}
	config.QPS, config.Burst = 50, 100
	return Connect(config, namespace)
}

// Connect makes a client of a configuration that is at hand.
func Connect(config *rest.Config, namespace string) (*Client, error) {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return &Client{
		Interface: client, Host: config.Host, Namespace: namespace, config: config, dynamic: dyn,
		mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
	}, nil
}

// reachTime bounds how long an API server may take to answer at all.
const reachTime = 10 * time.Second

// Reach asks the API server for its version: what is wrong with a cluster that
// cannot be reached is said once, and first.
func (c *Client) Reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	_, err := c.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	switch {
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server %s does not take the kubeconfig's credentials (have they expired? are they of another cluster?): %w", c.Host, err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the API server %s does not let the kubeconfig's user ask for its version: %w", c.Host, err)
	case err != nil:
		return fmt.Errorf("the API server %s does not answer (is the kubeconfig that of a running cluster?): %w", c.Host, err)
	}
	return nil
}

// AgentSelector finds duomesh's agents, and the DaemonSet of the chart that starts them.
const AgentSelector = "app.kubernetes.io/name=duomesh-agent"

// NoAgents reports whether it is certain that nobody has installed duomesh in the cluster,
// in whatever namespace. Who may not look is told false.
func (c *Client) NoAgents(ctx context.Context) bool {
	one := metav1.ListOptions{LabelSelector: AgentSelector, Limit: 1}
	sets, err := c.AppsV1().DaemonSets(metav1.NamespaceAll).List(ctx, one)
	if err != nil || len(sets.Items) > 0 {
		return false
	}
	pods, err := c.CoreV1().Pods(metav1.NamespaceAll).List(ctx, one)
	return err == nil && len(pods.Items) == 0
}

// Has reports whether the cluster knows a kind.
func (c *Client) Has(group, kind string) (bool, error) {
	_, err := c.mapping(schema.GroupKind{Group: group, Kind: kind}, "")
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	return err == nil, err
}

func (c *Client) mapping(kind schema.GroupKind, version string) (*meta.RESTMapping, error) {
	var versions []string
	if version != "" {
		versions = []string{version}
	}
	m, err := c.mapper.RESTMapping(kind, versions...)
	if meta.IsNoMatchError(err) { // defined a moment ago
		c.mapper.Reset()
		m, err = c.mapper.RESTMapping(kind, versions...)
	}
	return m, err
}

// Resource is the API of an object's kind, in the object's namespace.
func (c *Client) Resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := o.GroupVersionKind()
	m, err := c.mapping(schema.GroupKind{Group: kind.Group, Kind: kind.Kind}, kind.Version)
	if meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("%s: the cluster does not know kind %s of %s: its definition (CRD) is missing", Name(o), kind.Kind, kind.GroupVersion())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(o), err)
	}
	if m.Scope.Name() != meta.RESTScopeNameNamespace {
		return c.dynamic.Resource(m.Resource), nil
	}
	ns := o.GetNamespace()
	if ns == "" {
		ns = c.Namespace
	}
	return c.dynamic.Resource(m.Resource).Namespace(ns), nil
}

// Name is an object's for people.
func Name(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}
