package kind

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
