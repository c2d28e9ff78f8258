package kind

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// Watched is a pod of a cluster that is there, as an observer needs it.
type Watched struct {
	// Handle has the pod's name as NAMESPACE/POD; its descriptors are open until Close.
	Handle scenario.PodHandle
	place  *place
}

// Watch finds a running pod of a cluster whose nodes are on this machine, as kind's are.
// The caller closes it.
func Watch(ctx context.Context, client *cluster.Client, namespace, name string) (*Watched, error) {
	full := namespace + "/" + name
	o, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("there is no pod %s in the cluster", full)
	case err != nil:
		return nil, fmt.Errorf("get pod %s: %w", full, err)
	case o.Spec.HostNetwork:
		return nil, fmt.Errorf("pod %s is in its node's own network: its connections are not told from the node's", full)
	case o.Status.Phase != corev1.PodRunning:
		return nil, fmt.Errorf("pod %s does not run: it is %s", full, o.Status.Phase)
	}
	p, err := findPlace(string(o.UID))
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", full, err)
	}
	w := &Watched{place: p}
	addrs, err := podAddresses(o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pod %s: %w", full, err), w.Close())
	}
	w.Handle = scenario.PodHandle{
		Name: full, Node: o.Spec.NodeName, Netns: p.netns, Cgroup: p.cgroup, Addresses: addrs, Links: p.links,
	}
	for _, a := range addrs {
		switch {
		case a.Is4() && !w.Handle.IPv4.IsValid():
			w.Handle.IPv4 = a
		case a.Is6() && !w.Handle.IPv6.IsValid():
			w.Handle.IPv6 = a
		}
	}
	return w, nil
}

// Close closes the descriptors.
func (w *Watched) Close() error { return w.place.close() }
