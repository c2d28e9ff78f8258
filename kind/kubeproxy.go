package kind

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
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
// its rules at once.
type kubeProxies struct {
	mu     sync.Mutex
	wanted bool // a pod that it serves has asked for something
	have   bool
	made   int
}

// behind is called when something else was declared.
func (k *kubeProxies) behind() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.have = false
}

// ServeOutside returns when kube-proxy of each node has all that is declared. It comes before
// a pod outside the mesh asks for anything; from then on Apply waits for kube-proxy, too.
func (c *Cluster) ServeOutside(ctx context.Context) error {
	c.kubeProxies.mu.Lock()
	c.kubeProxies.wanted = true
	c.kubeProxies.mu.Unlock()
	return c.confirmKubeProxies(ctx)
}

// confirmKubeProxies returns when kube-proxy of each node has all that was declared before,
// if any pod wants it.
func (c *Cluster) confirmKubeProxies(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	k := &c.kubeProxies
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.wanted || k.have {
		return nil
	}
	k.made++
	if err := c.askLastService(ctx, fmt.Sprintf("last-%d", k.made)); err != nil {
		return fmt.Errorf("wait for kube-proxy: %w", err)
	}
	k.have = true
	return nil
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
	for _, slice := range kubeletSlices(node, service, port) {
		if _, err := c.client.DiscoveryV1().EndpointSlices(c.namespace).Create(ctx, slice, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	for _, n := range c.topology.Nodes {
		for _, at := range service.Spec.ClusterIPs {
			if err := c.awaitFrom(ctx, n.Name, net.JoinHostPort(at, strconv.Itoa(int(port)))); err != nil {
				return err
			}
		}
	}
	return c.client.CoreV1().Services(c.namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

// kubeletSlices are the endpoints of a service that leads to a node's kubelet, one object
// for each family. They go with the service.
func kubeletSlices(node *corev1.Node, service *corev1.Service, port int32) []*discoveryv1.EndpointSlice {
	byFamily := map[discoveryv1.AddressType]*discoveryv1.EndpointSlice{}
	var all []*discoveryv1.EndpointSlice
	for _, a := range node.Status.Addresses {
		at, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		family := discoveryv1.AddressTypeIPv4
		if at.Is6() {
			family = discoveryv1.AddressTypeIPv6
		}
		if byFamily[family] != nil {
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
		byFamily[family] = slice
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
		if p.node == node && p.place != nil {
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
