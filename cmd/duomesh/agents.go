package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/netsim"
)

// adminPort is the port of api.AdminAddress.
const adminPort = 15200

// onKubernetes reports whether the agents of a Kubernetes cluster are asked: one was
// named, or the environment names one and nothing simulated runs.
func (f askFlags) onKubernetes() bool {
	if f.simulated() != "" {
		return false
	}
	if f.kube.where != (cluster.Where{}) {
		return true
	}
	if f.admin != "" || f.cluster != "" || os.Getenv("KUBECONFIG") == "" {
		return false
	}
	s, err := f.running()
	return err != nil || s == nil
}

// simulated is the running cluster whose kubeconfig is named, by --kubeconfig or by the
// environment; "" where it is another's.
func (f askFlags) simulated() string {
	path := cmp.Or(f.kube.where.Kubeconfig, os.Getenv("KUBECONFIG"))
	if path == "" || f.admin != "" || f.cluster != "" || f.kube.where.Context != "" {
		return ""
	}
	all, err := netsim.Clusters(f.runDir)
	i := slices.IndexFunc(all, func(s netsim.State) bool { return s.Kubeconfig == path })
	if err != nil || i < 0 {
		return ""
	}
	return all[i].ID
}

// agents are the desks of a Kubernetes cluster's nodes, reached by forwarded ports.
func (f askFlags) agents(ctx context.Context, pod string) ([]desk, error) {
	if f.admin != "" || f.cluster != "" {
		return nil, usagef("--kubeconfig and --context are for a Kubernetes cluster: --admin and --cluster name others")
	}
	c, err := f.kube.open(ctx)
	if err != nil {
		return nil, err
	}
	node := f.node
	if pod != "" {
		on, err := nodeOf(ctx, c, pod)
		if err != nil {
			return nil, err
		}
		if node != "" && node != on {
			return nil, usagef("pod %s is on node %s, not on %s", pod, on, node)
		}
		node = on
	}
	pods, err := agentPods(ctx, c, f.system)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	var desks []desk
	for _, p := range pods {
		if node != "" && p.Spec.NodeName != node {
			continue
		}
		d := agentDesk(c, &p)
		d.among = node == ""
		desks = append(desks, d)
	}
	switch {
	case len(pods) == 0:
		return nil, fmt.Errorf("no agent runs in namespace %s of this cluster: duomesh install puts them there, --system-namespace names another", f.system)
	case len(desks) == 0:
		return nil, usagef("no agent runs on node %q", node)
	}
	return desks, nil
}

// agentDesk is the agent that runs in a pod, or is to.
func agentDesk(c *cluster.Client, p *corev1.Pod) desk {
	return desk{
		node: p.Spec.NodeName, nobody: silence(p),
		reach: func(ctx context.Context) (api.Place, func(), error) {
			if why := down(p); why != "" {
				return api.Place{}, nil, errors.New("it does not run: " + why)
			}
			address, stop, err := c.Forward(ctx, p.Namespace, p.Name, adminPort)
			return api.Place{Address: address}, stop, err
		},
	}
}

// silence is what to say of an agent that does not answer: one that was started anew a
// moment ago will not end otherwise than the one before.
func silence(p *corev1.Pod) string {
	text := "the agent of node " + p.Spec.NodeName + " does not answer"
	starting := slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil && !s.Ready })
	if said := lastWords(p); said != "" && starting {
		text += ": it does not run: it is tried again; it ended, and said last: " + said
	}
	return text
}

// nodeOf is where a pod runs: NAME, of the context's namespace, or NAMESPACE/NAME.
func nodeOf(ctx context.Context, c *cluster.Client, pod string) (string, error) {
	namespace, name, both := strings.Cut(pod, "/")
	if !both {
		namespace, name = c.Namespace, pod
	}
	p, err := c.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", usagef("there is no pod %s in namespace %s", name, namespace)
	case err != nil:
		return "", fmt.Errorf("look for pod %s: %w", pod, err)
	case p.Spec.NodeName == "":
		return "", fmt.Errorf("pod %s is on no node yet", pod)
	}
	return p.Spec.NodeName, nil
}

// resolve turns SERVICE[.NAMESPACE]:PORT into the service's first address; what is an
// address stays as it is.
func (f askFlags) resolve(ctx context.Context, to string) (string, error) {
	host, port, err := net.SplitHostPort(to)
	if err != nil || !f.onKubernetes() {
		return to, nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return to, nil
	}
	c, err := f.kube.open(ctx)
	if err != nil {
		return "", err
	}
	name, rest, _ := strings.Cut(host, ".")
	namespace, _, _ := strings.Cut(rest, ".")
	if namespace == "" {
		namespace = c.Namespace
	}
	s, err := c.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", usagef("--to %s: there is no service %s in namespace %s", to, name, namespace)
	case err != nil:
		return "", fmt.Errorf("look for service %s: %w", host, err)
	case s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone:
		return "", usagef("--to %s: service %s/%s has no address of its own: name a pod's", to, namespace, name)
	}
	return net.JoinHostPort(s.Spec.ClusterIP, port), nil
}
