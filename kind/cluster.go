package kind

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
)

// Cluster is one scenario's namespace of a cluster. It implements scenario.World.
type Cluster struct {
	cfg       Config
	exe       string
	client    *cluster.Client
	namespace string
	topology  scenario.Topology
	pods      map[string]*pod
	nodes     map[string]string     // Kubernetes' names, by the topology's
	sites     map[string]site       // where they stand, by the same
	agents    []agent               // of the nodes that have pods
	proxies   map[string]*NodeProxy // by Kubernetes' name of the node; nil but behind Ambient
	vips      addresses
	witness   traffic.Witness
	gateways  gateways
	replicas  map[string]*replica // by pod of the topology

	kubeProxies *kubeProxies

	mu       sync.Mutex
	declared []*unstructured.Unstructured
	objects  scenario.Objects
	labels   map[string]map[string]string
	managed  map[string]bool
	known    map[string]bool // services that were ever declared
}

// pod is one pod of the topology.
type pod struct {
	spec    scenario.Pod
	node    string       // the topology's name
	name    string       // Kubernetes' name
	addrs   []netip.Addr // IPv4 before IPv6
	place   *place
	server  *traffic.RemoteServer
	stopped bool
	unready bool
}

// openTime bounds how long the pods of a topology may take to run.
const openTime = 4 * time.Minute

// runs numbers the worlds of a process: names and addresses are never used twice.
var runs atomic.Int64

// Opener makes worlds on one cluster.
func Opener(cfg Config) scenario.Opener {
	return func(ctx context.Context, t scenario.Topology) (scenario.World, error) { return Open(ctx, cfg, t) }
}

// Open makes a namespace with the pods of a topology, and returns when they run and
// those that are to be managed are; waypoints come with what is declared. Close takes it
// away.
func Open(ctx context.Context, cfg Config, t scenario.Topology) (_ *Cluster, err error) {
	if err := errors.Join(cfg.check(), buildable(t)); err != nil {
		return nil, err
	}
	run := int(runs.Add(1))
	c := &Cluster{
		cfg: cfg, exe: cfg.Exe, client: cfg.Client, topology: t, pods: map[string]*pod{}, nodes: map[string]string{},
		sites:     map[string]site{},
		namespace: fmt.Sprintf("duomesh-world-%d-%d", os.Getpid(), run),
		vips:      newAddresses(cfg.Services, cfg.Services6, run),
		labels:    map[string]map[string]string{}, managed: map[string]bool{}, known: map[string]bool{},
		gateways: gateways{}, replicas: map[string]*replica{}, kubeProxies: newKubeProxies(),
	}
	if c.exe == "" {
		if c.exe, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("kind: find what starts load: %w", err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("kind: %w", err), c.Close())
		}
	}()
	if err := c.chooseNodes(ctx); err != nil {
		return nil, err
	}
	if cfg.Ambient {
		if c.proxies, err = NodeProxies(ctx, c.client); err != nil {
			return nil, err
		}
	}
	if err := c.makePods(ctx); err != nil {
		return nil, err
	}
	if cfg.Ambient { // duomesh has no part in it
		return c, nil
	}
	return c, c.findAgents(ctx)
}

func (c *Cluster) makePods(ctx context.Context) error {
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace"}}
	ns.SetName(c.namespace)
	if c.cfg.Ambient {
		ns.SetLabels(map[string]string{modeLabel: ambientMode})
	}
	if err := c.client.Apply(ctx, cluster.ApplyOptions{}, ns); err != nil {
		return err
	}
	if c.cfg.Ambient {
		if err := c.identities(ctx); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, n := range c.topology.Nodes {
		for _, spec := range n.Pods {
			p := &pod{spec: spec, node: n.Name, name: spec.Name}
			c.pods[spec.Name] = p
			g.Go(func() error {
				if err := c.makePod(ctx, p); err != nil {
					return fmt.Errorf("pod %s: %w", spec.Name, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

func (c *Cluster) makePod(ctx context.Context, p *pod) error {
	if p.spec.Waypoint {
		return nil // what is declared says which waypoint it is a replica of
	}
	if err := c.client.Apply(ctx, cluster.ApplyOptions{}, c.podObject(p)); err != nil {
		return err
	}
	if err := c.sayReady(ctx, p, true); err != nil {
		return err
	}
	if p.spec.Managed {
		c.setManaged(p.spec.Name, true)
	}
	return c.awaitPod(ctx, p, p.spec.Managed)
}

// podObject is a pod that waits. It takes the load of this process: what it runs
// itself does nothing.
func (c *Cluster) podObject(p *pod) *unstructured.Unstructured {
	container := map[string]any{"name": "pod", "image": c.cfg.Image, "imagePullPolicy": "IfNotPresent"}
	if ports := namedPorts(p.spec); len(ports) > 0 {
		container["ports"] = ports
	}
	mode, spec := "none", map[string]any{
		"nodeName": c.nodes[p.node], "terminationGracePeriodSeconds": int64(0), "containers": []any{container},
		"readinessGates": []any{map[string]any{"conditionType": readinessGate}},
	}
	if c.cfg.Ambient {
		spec["serviceAccountName"] = p.spec.Name
	}
	if p.spec.Managed {
		mode = c.cfg.mode()
	}
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "spec": spec}}
	o.SetName(p.name)
	o.SetNamespace(c.namespace)
	o.SetLabels(map[string]string{modeLabel: mode, "app": p.name})
	return o
}

// namedPorts are a pod's ports that have a name, as its container declares them.
func namedPorts(p scenario.Pod) []any {
	var all []any
	for _, name := range slices.Sorted(maps.Keys(p.Ports)) {
		all = append(all, map[string]any{"name": name, "containerPort": int64(p.Ports[name]), "protocol": string(scenario.TCP)})
	}
	return all
}

// awaitPod returns when a pod runs and is ready, is found on this machine, and when it is
// to be managed has been confirmed.
func (c *Cluster) awaitPod(ctx context.Context, p *pod, managed bool) error {
	var uid string
	err := cluster.Await(ctx, func(ctx context.Context) (string, error) {
		o, err := c.client.CoreV1().Pods(c.namespace).Get(ctx, p.name, metav1.GetOptions{})
		switch {
		case err != nil:
			return "", err
		case o.Status.Phase != corev1.PodRunning || o.Status.PodIP == "":
			return "it does not run: " + string(o.Status.Phase) + " " + lastWords(o), nil
		case managed && o.Annotations[c.cfg.confirmation()] != "enabled":
			return "no agent has confirmed that it is managed", nil
		case !ready(o):
			return "it is not ready", nil
		}
		uid = string(o.UID)
		p.addrs, err = podAddresses(o)
		return "", err
	})
	if err != nil {
		return err
	}
	p.place, err = findPlace(uid)
	if errors.Is(err, errElsewhere) {
		return fmt.Errorf("%w: %w", scenario.ErrNotExpressible, err)
	}
	return err
}

// podAddresses are a pod's, IPv4 first.
func podAddresses(o *corev1.Pod) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, ip := range o.Status.PodIPs {
		a, err := netip.ParseAddr(ip.IP)
		if err != nil {
			return nil, fmt.Errorf("its address: %w", err)
		}
		all = append(all, a)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all, nil
}

func lastWords(o *corev1.Pod) string {
	for _, s := range o.Status.ContainerStatuses {
		if s.State.Waiting != nil {
			return strings.TrimSpace(s.State.Waiting.Reason + " " + s.State.Waiting.Message)
		}
	}
	return ""
}

func (c *Cluster) pod(name string) (*pod, error) {
	if p := c.pods[name]; p != nil && p.place != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no pod %q is in this world", name)
}

func (c *Cluster) isManaged(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.managed[name]
}

func (c *Cluster) setManaged(name string, in bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.managed[name] = in
}

// Close implements scenario.World. The cluster takes the namespace away by itself.
func (c *Cluster) Close() error {
	var errs []error
	for _, p := range c.pods {
		if p.server != nil {
			errs = append(errs, p.server.Close())
		}
	}
	for _, r := range c.replicas {
		r.close()
	}
	errs = append(errs, closeAll(c.proxies))
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	err := c.client.CoreV1().Namespaces().Delete(ctx, c.namespace, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("delete namespace %s: %w", c.namespace, err))
	}
	for _, p := range c.pods {
		if p.place != nil {
			errs = append(errs, p.place.close())
		}
	}
	return errors.Join(errs...)
}

// closeTime bounds the question.
const closeTime = 20 * time.Second
