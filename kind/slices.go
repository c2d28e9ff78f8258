package kind

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

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
			if err == nil && slices.Contains(s.Spec.IPFamilies, corev1.IPFamily(addressType(at))) {
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
