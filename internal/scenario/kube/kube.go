// Package kube renders the objects of a scenario for Kubernetes and Istio: what a
// person would apply with kubectl to say the same.
//
// A service whose endpoints all weigh the same is a Service whose selector finds
// Pods by a label. Kubernetes knows no weights: where they differ, each endpoint is a
// WorkloadEntry with its weight and address, which the Service selects instead of the
// Pod. A service with an address outside the cluster's ranges is a ServiceEntry, and so
// is one whose endpoints have target ports of their own that have no name. One of whose
// pods less is to be known than Kubernetes knows has WorkloadEntries, too. One with a
// waypoint has the label that names it, and its routes are an HTTPRoute; the waypoint is
// a Gateway, where the world does not make it itself.
package kube

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/scenario"
)

// World is what the world has given to what the objects name.
type World struct {
	Namespace string
	// Services are the virtual addresses by service.
	Services map[string][]netip.Addr
	Pods     map[string]Pod
	// Ranges are those of the cluster's virtual addresses.
	Ranges []netip.Prefix
	// Gateways is set where waypoints are to be declared; else the world makes them.
	Gateways bool
}

// Pod is what the world has given to a pod.
type Pod struct {
	// Addresses are its own, IPv4 first.
	Addresses []netip.Addr
	// Ports are the numbers of its ports that have a name.
	Ports map[string]uint16
	// Partly is set where Kubernetes' Pod has other addresses, too, which services are not
	// to know.
	Partly bool
}

// Rendered is one declared state.
type Rendered struct {
	// Unready are the pods that are not ready.
	Unready []string
	Objects []*unstructured.Unstructured
	// Labels are those that pods must have, by pod, beside their own.
	Labels map[string]map[string]string
}

// Label is the label by which a service finds what is behind it.
func Label(service string) string { return "service.duomesh.io/" + service }

// Render returns what declares o. What Kubernetes or Istio cannot say wraps
// scenario.ErrNotExpressible.
func Render(o scenario.Objects, w World) (Rendered, error) {
	r := Rendered{Labels: map[string]map[string]string{}, Unready: o.Unready}
	if w.Gateways {
		for _, name := range o.WaypointNames() {
			r.add(cluster.Waypoint(w.Namespace, name, "service"))
		}
	}
	for _, s := range o.Services {
		if err := r.service(s, o.Unready, w); err != nil {
			return Rendered{}, fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	return r, nil
}

func (r *Rendered) service(s scenario.Service, unready []string, w World) error {
	if err := expressible(s, unready, w); err != nil {
		return err
	}
	if asEntry(s, w) {
		r.add(serviceEntry(s, w))
	} else {
		r.add(service(s, w))
	}
	if len(s.Routes) > 0 {
		route, err := httpRoute(s, w)
		if err != nil {
			return err
		}
		r.add(route)
	}
	if !byEntries(s, w) {
		for _, e := range s.Endpoints {
			if e.Weight > 0 {
				r.label(e.Pod, s.Name)
			}
		}
		return nil
	}
	for _, e := range s.Endpoints {
		if e.Weight == 0 {
			continue // an entry's weight 0 means 1
		}
		for _, a := range w.Pods[e.Pod].Addresses {
			r.add(workloadEntry(s, e, a, w))
		}
	}
	return nil
}

func (r *Rendered) add(o *unstructured.Unstructured) { r.Objects = append(r.Objects, o) }

func (r *Rendered) label(pod, service string) {
	if r.Labels[pod] == nil {
		r.Labels[pod] = map[string]string{}
	}
	r.Labels[pod][Label(service)] = ""
}

// onePortOneTarget: the workload API knows ports by their number alone.
func onePortOneTarget(s scenario.Service) error {
	targets := map[uint16]uint16{}
	for _, p := range s.Ports {
		if first, ok := targets[p.Port]; ok && first != p.Target {
			return fmt.Errorf("%w: port %d has one target for TCP and another for UDP, and istiod's workload API names no protocol",
				scenario.ErrNotExpressible, p.Port)
		}
		targets[p.Port] = p.Target
	}
	return nil
}

// weighed reports whether the endpoints that are ever chosen differ in weight.
func weighed(s scenario.Service) bool {
	var first uint32
	for _, e := range s.Endpoints {
		switch {
		case e.Weight == 0:
		case first == 0:
			first = e.Weight
		case e.Weight != first:
			return true
		}
	}
	return false
}

func inside(addrs []netip.Addr, ranges []netip.Prefix) bool {
	for _, a := range addrs {
		found := false
		for _, r := range ranges {
			found = found || r.Contains(a)
		}
		if !found {
			return false
		}
	}
	return true
}

func object(version, kind, name string, w World, spec map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": version, "kind": kind, "spec": spec}}
	o.SetName(name)
	o.SetNamespace(w.Namespace)
	return o
}

func service(s scenario.Service, w World) *unstructured.Unstructured {
	var ports []any
	for _, p := range s.Ports {
		var target any = int64(p.Target)
		if p.TargetName != "" {
			target = p.TargetName
		}
		ports = append(ports, map[string]any{
			"name": portName(p), "port": int64(p.Port), "targetPort": target, "protocol": protocol(p),
		})
	}
	spec := map[string]any{"selector": map[string]any{Label(s.Name): ""}, "ports": ports}
	maps.Copy(spec, localities[localityOf(s.Balance)])
	if s.PublishNotReady {
		spec["publishNotReadyAddresses"] = true
	}
	addrs := w.Services[s.Name]
	if s.Headless {
		addrs = nil
		spec["clusterIP"] = corev1.ClusterIPNone
	}
	families := []any{}
	for _, a := range addrs {
		family := "IPv4"
		if a.Is6() {
			family = "IPv6"
		}
		families = append(families, family)
	}
	policy := "SingleStack"
	if len(addrs) > 1 {
		policy = "RequireDualStack"
	}
	if len(addrs) > 0 {
		spec["clusterIP"], spec["clusterIPs"] = addrs[0].String(), texts(addrs)
		spec["ipFamilies"], spec["ipFamilyPolicy"] = families, policy
	}
	o := object("v1", "Service", s.Name, w, spec)
	useWaypoint(o, s)
	return o
}

func serviceEntry(s scenario.Service, w World) *unstructured.Unstructured {
	var ports []any
	for _, p := range s.Ports {
		ports = append(ports, map[string]any{
			"name": portName(p), "number": int64(p.Port), "targetPort": int64(p.Target), "protocol": protocol(p),
		})
	}
	o := object("networking.istio.io/v1", "ServiceEntry", s.Name, w, map[string]any{
		"hosts":     []any{s.Name + "." + w.Namespace + ".svc.cluster.local"},
		"addresses": texts(w.Services[s.Name]), "location": "MESH_INTERNAL", "resolution": "STATIC", "ports": ports,
		"workloadSelector": map[string]any{"labels": map[string]any{Label(s.Name): ""}},
	})
	useWaypoint(o, s)
	return o
}

func workloadEntry(s scenario.Service, e scenario.Endpoint, a netip.Addr, w World) *unstructured.Unstructured {
	family := "-v4"
	if a.Is6() {
		family = "-v6"
	}
	spec := map[string]any{
		"address": a.String(), "weight": int64(e.Weight), "labels": map[string]any{Label(s.Name): ""},
	}
	if ports := entryPorts(s, e, w); len(ports) > 0 {
		spec["ports"] = ports
	}
	o := object("networking.istio.io/v1", "WorkloadEntry", s.Name+"-"+e.Pod+family, w, spec)
	o.SetLabels(map[string]string{Label(s.Name): ""})
	return o
}

func texts(addrs []netip.Addr) []any {
	var all []any
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}

func protocol(p scenario.Port) string {
	if p.Protocol == "" {
		return string(scenario.TCP)
	}
	return string(p.Protocol)
}

// portName also says what is spoken, as Kubernetes' and Istio's names do.
func portName(p scenario.Port) string {
	if p.Name != "" {
		return p.Name
	}
	return fmt.Sprintf("%s-%d", strings.ToLower(protocol(p)), p.Port)
}
