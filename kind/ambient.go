package kind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
)

// What istio-cni is told and tells, and how Istio's charts name what runs on nodes.
const (
	ambientMode       = "ambient"
	ambientAnnotation = "ambient.istio.io/redirection"
	nameLabel         = "app.kubernetes.io/name"
	ztunnelName       = "ztunnel"
	istioCNIName      = "istio-cni"
)

// ErrNoAmbient says what a cluster lacks for pods behind Istio Ambient's node proxies.
var ErrNoAmbient = errors.New("the cluster has no Istio Ambient")

// NodeProxy is the ztunnel of a node on this machine. Its descriptors are its own.
type NodeProxy struct {
	// Netns is its pod's network namespace, Cgroup where its process is.
	Netns, Cgroup *os.File
	// Program is the path of what runs.
	Program string
}

// Close closes its descriptors.
func (p *NodeProxy) Close() error {
	var errs []error
	for _, f := range []*os.File{p.Netns, p.Cgroup} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// NodeProxies finds the ztunnels of a cluster, each by the name of its node. Where one,
// or istio-cni, is not there and ready everywhere, the error is ErrNoAmbient. The caller
// closes them.
func NodeProxies(ctx context.Context, client *cluster.Client) (_ map[string]*NodeProxy, err error) {
	if _, err := readySet(ctx, client, istioCNIName); err != nil {
		return nil, err
	}
	set, err := readySet(ctx, client, ztunnelName)
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("DaemonSet %s/%s: %w", set.Namespace, set.Name, err)
	}
	pods, err := client.CoreV1().Pods(set.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("list the pods of DaemonSet %s/%s: %w", set.Namespace, set.Name, err)
	}
	all := map[string]*NodeProxy{}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(all))
		}
	}()
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp != nil || !ready(pod) {
			continue
		}
		p, err := findProxy(pod)
		if err != nil {
			return all, fmt.Errorf("ztunnel of node %s: %w", pod.Spec.NodeName, err)
		}
		all[pod.Spec.NodeName] = p
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: DaemonSet %s/%s: no pod of it is ready", ErrNoAmbient, set.Namespace, set.Name)
	}
	return all, nil
}

func closeAll(all map[string]*NodeProxy) error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// readySet is the DaemonSet of a name, when it runs on every node that it is for.
func readySet(ctx context.Context, client *cluster.Client, name string) (*appsv1.DaemonSet, error) {
	list, err := client.AppsV1().DaemonSets("").List(ctx, metav1.ListOptions{LabelSelector: nameLabel + "=" + name})
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", name, err)
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("%w: there is no DaemonSet of %s (make kind-ambient puts it there)", ErrNoAmbient, name)
	}
	d := &list.Items[0]
	if want, have := d.Status.DesiredNumberScheduled, d.Status.NumberReady; want == 0 || have < want {
		return nil, fmt.Errorf("%w: %s is ready on %d of %d nodes", ErrNoAmbient, name, have, want)
	}
	return d, nil
}

// findProxy looks for the process of a ztunnel among those of its pod, one of which is
// the sandbox's.
func findProxy(pod *corev1.Pod) (_ *NodeProxy, err error) {
	dir, err := podDirectoryOf(string(pod.UID))
	if err != nil {
		return nil, err
	}
	cgroup, pid, err := processOf(dir, ztunnelName)
	if err != nil {
		return nil, err
	}
	p := &NodeProxy{Program: filepath.Join("/proc", pid, "exe")}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if p.Cgroup, err = os.Open(cgroup); err != nil {
		return nil, err
	}
	p.Netns, err = os.Open(filepath.Join("/proc", pid, "ns/net"))
	return p, err
}

// processOf finds a process of a program at or below a cgroup's directory, and the
// directory that it is in.
func processOf(dir, program string) (cgroup, pid string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || d.Name() != "cgroup.procs":
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, p := range strings.Fields(string(text)) {
			if exe, err := os.Readlink(filepath.Join("/proc", p, "exe")); err == nil && filepath.Base(exe) == program {
				cgroup, pid = filepath.Dir(path), p
				return fs.SkipAll
			}
		}
		return nil
	})
	if err == nil && pid == "" {
		err = fmt.Errorf("no process of it is a %s", program)
	}
	return cgroup, pid, err
}

// NodeProxy is the ztunnel of a pod's node, by the topology's name. It stays the world's.
func (c *Cluster) NodeProxy(node string) (*NodeProxy, error) {
	if p := c.proxies[c.nodes[node]]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("node %s has no ztunnel", node)
}

// Namespace is the world's own, in the cluster. In a world behind Ambient each pod has a
// ServiceAccount of its own name there.
func (c *Cluster) Namespace() string { return c.namespace }

// identities makes the pods' ServiceAccounts, so that node proxies can tell them apart.
func (c *Cluster) identities(ctx context.Context) error {
	var all []*unstructured.Unstructured
	for _, n := range c.topology.Nodes {
		for _, p := range n.Pods {
			if p.Waypoint {
				continue // istiod makes its own
			}
			o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ServiceAccount"}}
			o.SetName(p.Name)
			o.SetNamespace(c.namespace)
			all = append(all, o)
		}
	}
	return c.client.Apply(ctx, cluster.ApplyOptions{}, all...)
}
