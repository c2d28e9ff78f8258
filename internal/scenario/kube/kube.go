// Package kube renders the objects of a scenario for Kubernetes and Istio: what a
// person would apply with kubectl to say the same.
//
// A service whose endpoints all weigh the same is a Service whose selector finds
// Pods by a label. Kubernetes knows no weights: where they differ, each endpoint is a
// WorkloadEntry with its weight and address, which the Service selects instead of the
// Pod. A service with an address outside the cluster's ranges is a ServiceEntry.
//
// A waypoint is a Gateway of Istio's class for them, named by a label of the services
// that go through it; the HTTP rules of a service are an HTTPRoute of its name.
package kube

import (
	"fmt"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/duomesh/duomesh/internal/scenario"
)

// World is what the world has given to what the objects name.
type World struct {
	Namespace string
	// Services are the virtual addresses by service, Pods the pods' own, IPv4 first.
	Services map[string][]netip.Addr
	Pods     map[string][]netip.Addr
	// Ranges are those of the cluster's virtual addresses.
	Ranges []netip.Prefix
}

// Rendered is one declared state.
type Rendered struct {
	Objects []*unstructured.Unstructured
	// Labels are those that pods must have, by pod, beside their own.
	Labels map[string]map[string]string
}

// Label is the label by which a service finds what is behind it.
func Label(service string) string { return "service.duomesh.io/" + service }

// Render returns what declares o. What Kubernetes or Istio cannot say wraps
// scenario.ErrNotExpressible.
func Render(o scenario.Objects, w World) (Rendered, error) {
	r := Rendered{Labels: map[string]map[string]string{}}
	for _, name := range o.WaypointNames() {
		r.add(gateway(name, w))
	}
	for _, s := range o.Services {
		if err := r.service(s, w); err != nil {
			return Rendered{}, fmt.Errorf("service %s: %w", s.Name, err)
		}
		if len(s.Routes) > 0 {
			r.add(httpRoute(s, w))
		}
	}
	return r, nil
}

func (r *Rendered) service(s scenario.Service, w World) error {
	if err := onePortOneTarget(s); err != nil {
		return err
	}
	declared := service(s, w)
	if !inside(w.Services[s.Name], w.Ranges) {
		declared = serviceEntry(s, w)
	}
	if s.Waypoint != "" {
		declared.SetLabels(map[string]string{UseWaypoint: s.Waypoint})
	}
	r.add(declared)
	if !weighed(s) {
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
		for _, a := range w.Pods[e.Pod] {
			r.add(workloadEntry(s.Name, e, a, w))
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
		ports = append(ports, map[string]any{
			"name": portName(p), "port": int64(p.Port), "targetPort": int64(p.Target), "protocol": protocol(p),
		})
	}
	addrs := w.Services[s.Name]
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
	return object("v1", "Service", s.Name, w, map[string]any{
		"clusterIP": addrs[0].String(), "clusterIPs": texts(addrs), "ipFamilies": families, "ipFamilyPolicy": policy,
		"selector": map[string]any{Label(s.Name): ""}, "ports": ports,
	})
}

func serviceEntry(s scenario.Service, w World) *unstructured.Unstructured {
	var ports []any
	for _, p := range s.Ports {
		ports = append(ports, map[string]any{
			"name": portName(p), "number": int64(p.Port), "targetPort": int64(p.Target), "protocol": protocol(p),
		})
	}
	return object("networking.istio.io/v1", "ServiceEntry", s.Name, w, map[string]any{
		"hosts":     []any{s.Name + "." + w.Namespace + ".svc.cluster.local"},
		"addresses": texts(w.Services[s.Name]), "location": "MESH_INTERNAL", "resolution": "STATIC", "ports": ports,
		"workloadSelector": map[string]any{"labels": map[string]any{Label(s.Name): ""}},
	})
}

func workloadEntry(service string, e scenario.Endpoint, a netip.Addr, w World) *unstructured.Unstructured {
	family := "-v4"
	if a.Is6() {
		family = "-v6"
	}
	o := object("networking.istio.io/v1", "WorkloadEntry", service+"-"+e.Pod+family, w, map[string]any{
		"address": a.String(), "weight": int64(e.Weight), "labels": map[string]any{Label(service): ""},
	})
	o.SetLabels(map[string]string{Label(service): ""})
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

func portName(p scenario.Port) string {
	if p.Name != "" {
		return p.Name
	}
	return fmt.Sprintf("%s-%d", strings.ToLower(protocol(p)), p.Port)
}
