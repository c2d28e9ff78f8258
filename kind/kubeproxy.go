package kind

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/kernel"
)

// kubeProxies says whether kube-proxy has what is declared. It tells nobody: a service that
// is made after everything else shows it, since kube-proxy hears of services, and of
// endpoints, in the order in which they are made, and takes all that it has heard of into
// its rules at once. (With ipvs it does so one by one: there a moment is left.)
type kubeProxies struct {
	turn chan struct{} // held by who asks

	mu       sync.Mutex
	wanted   bool // a pod that it serves has asked for something
	declared int  // grows whenever something is
	have     int  // what declared was when it had everything
	made     int
}

func newKubeProxies() *kubeProxies { return &kubeProxies{turn: make(chan struct{}, 1), declared: 1} }

// behind is called when something else is declared, before and after.
func (k *kubeProxies) behind() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.declared++
}

// want lets confirm ask from now on.
func (k *kubeProxies) want() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = true
}

// next is the name of a service that is to be asked for, and what it will show; "" when
// nothing is to be asked.
func (k *kubeProxies) next() (name string, shows int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.wanted || k.have == k.declared {
		return "", 0
	}
	k.made++
	return fmt.Sprintf("duomesh-last-%d", k.made), k.declared
}

func (k *kubeProxies) shown(what int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.have = what
}

// confirm asks, one at a time, if there is a reason to.
func (k *kubeProxies) confirm(ctx context.Context, ask func(ctx context.Context, service string) error) error {
	select {
	case k.turn <- struct{}{}:
		defer func() { <-k.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for kube-proxy: %w", ctx.Err())
	}
	name, shows := k.next()
	if name == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	if err := ask(ctx, name); err != nil {
		return fmt.Errorf("wait for kube-proxy: %w", err)
	}
	k.shown(shows)
	return nil
}

// ServeOutside returns when kube-proxy of each node has all that is declared. It comes before
// a pod outside the mesh asks for anything; from then on Apply waits for kube-proxy, too.
func (c *Cluster) ServeOutside(ctx context.Context) error {
	c.kubeProxies.want()
	return c.confirmKubeProxies(ctx)
}

// confirmKubeProxies returns when kube-proxy of each node has all that was declared before,
// if any pod wants it.
func (c *Cluster) confirmKubeProxies(ctx context.Context) error {
	return c.kubeProxies.confirm(ctx, func(ctx context.Context, name string) error {
		if err := cluster.Await(ctx, c.lacksSlices); err != nil {
			return err
		}
		return c.askLastService(ctx, name)
	})
}

// lacksSlices says which service's endpoints the cluster has not worked out yet: they are
// objects of their own, that come after the service and its pods.
func (c *Cluster) lacksSlices(ctx context.Context) (string, error) {
	all := metav1.ListOptions{}
	services, err := c.client.CoreV1().Services(c.namespace).List(ctx, all)
	if err != nil {
		return "", err
	}
	pods, err := c.client.CoreV1().Pods(c.namespace).List(ctx, all)
	if err != nil {
		return "", err
	}
	endpoints, err := c.client.DiscoveryV1().EndpointSlices(c.namespace).List(ctx, all)
	if err != nil {
		return "", err
	}
	for _, s := range services.Items {
		if want, have := podsOf(s, pods.Items), inSlices(s.Name, endpoints.Items); len(s.Spec.Selector) > 0 && !maps.Equal(want, have) {
			return fmt.Sprintf("of service %s %d endpoints are to be ready, and %d are", s.Name, len(want), len(have)), nil
		}
	}
	return "", nil
}

// podsOf are the addresses of the families of a service that its ready pods have.
func podsOf(s corev1.Service, pods []corev1.Pod) map[string]bool {
	all := map[string]bool{}
	for _, p := range pods {
		is := ready(&p) || s.Spec.PublishNotReadyAddresses
		if p.DeletionTimestamp != nil || !is || !labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(p.Labels)) {
			continue
		}
		for _, ip := range p.Status.PodIPs {
			at, err := netip.ParseAddr(ip.IP)
			family := corev1.IPv4Protocol
			if at.Is6() {
				family = corev1.IPv6Protocol
			}
			if err == nil && slices.Contains(s.Spec.IPFamilies, family) {
				all[ip.IP] = true
			}
		}
	}
	return all
}

// inSlices are the addresses of a service's ready endpoints.
func inSlices(service string, all []discoveryv1.EndpointSlice) map[string]bool {
	found := map[string]bool{}
	for _, slice := range all {
		if slice.Labels[discoveryv1.LabelServiceName] != service {
			continue
		}
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				found[e.Addresses[0]] = true
			}
		}
	}
	return found
}

// askLastService makes a service of the name that leads to the kubelet of a node, and returns
// when every node reaches it.
func (c *Cluster) askLastService(ctx context.Context, name string) error {
	node, err := c.client.CoreV1().Nodes().Get(ctx, c.nodes[c.topology.Nodes[0].Name], metav1.GetOptions{})
	if err != nil {
		return err
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	families := corev1.IPFamilyPolicyPreferDualStack
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		IPFamilyPolicy: &families, Ports: []corev1.ServicePort{{Port: port}},
	}}
	if service, err = c.client.CoreV1().Services(c.namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	served := map[discoveryv1.AddressType]bool{}
	for _, slice := range kubeletSlices(node, service, port) {
		if _, err := c.client.DiscoveryV1().EndpointSlices(c.namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return err
		}
		served[slice.AddressType] = true
	}
	if err := c.awaitLastService(ctx, service, port, served); err != nil {
		return err
	}
	// What this does not do the end of the namespace does.
	_ = c.client.CoreV1().Services(c.namespace).Delete(ctx, name, metav1.DeleteOptions{})
	return nil
}

// awaitLastService returns when every node reaches a service at each address of a family in
// which it has an endpoint.
func (c *Cluster) awaitLastService(ctx context.Context, service *corev1.Service, port int32, served map[discoveryv1.AddressType]bool) error {
	asked := 0
	for _, at := range service.Spec.ClusterIPs {
		ip, err := netip.ParseAddr(at)
		if err != nil {
			return fmt.Errorf("the address of service %s: %w", service.Name, err)
		}
		if !served[addressType(ip)] {
			continue
		}
		asked++
		for _, n := range c.topology.Nodes {
			if err := c.awaitFrom(ctx, n.Name, netip.AddrPortFrom(ip, uint16(port)).String()); err != nil {
				return err
			}
		}
	}
	if asked == 0 {
		return fmt.Errorf("node %s has no address of a family of service %s, %v", c.nodes[c.topology.Nodes[0].Name], service.Name, service.Spec.ClusterIPs)
	}
	return nil
}

func addressType(at netip.Addr) discoveryv1.AddressType {
	if at.Is6() {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// kubeletSlices are the endpoints of a service that leads to a node's kubelet, one object
// for each family. They go with the service.
func kubeletSlices(node *corev1.Node, service *corev1.Service, port int32) []*discoveryv1.EndpointSlice {
	byFamily := map[discoveryv1.AddressType]bool{}
	var all []*discoveryv1.EndpointSlice
	for _, a := range node.Status.Addresses {
		at, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		family := addressType(at)
		if byFamily[family] {
			continue
		}
		ready, noName := true, ""
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				GenerateName: service.Name + "-", Labels: map[string]string{discoveryv1.LabelServiceName: service.Name},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: service.Name, UID: service.UID}},
			},
			AddressType: family, Ports: []discoveryv1.EndpointPort{{Name: &noName, Port: &port}},
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{a.Address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}
		byFamily[family] = true
		all = append(all, slice)
	}
	return all
}

// dialTime bounds one try: without rules of kube-proxy nobody answers at a service's address.
const dialTime = time.Second

// awaitFrom returns when a node reaches an address.
func (c *Cluster) awaitFrom(ctx context.Context, node, address string) error {
	var place *place
	for _, p := range c.pods {
		if p.node == node && p.place != nil && !p.spec.Waypoint { // a waypoint's comes and goes
			place = p.place
		}
	}
	if place == nil {
		return nil // it has no pods
	}
	return cluster.Await(ctx, func(ctx context.Context) (said string, _ error) {
		err := kernel.InNetns(place.node, func() error {
			d := net.Dialer{Timeout: dialTime}
			conn, err := d.DialContext(ctx, "tcp", address)
			if err != nil {
				said = fmt.Sprintf("node %s does not reach a service made last: %v", node, err)
				return nil
			}
			return conn.Close()
		})
		return said, err
	})
}
