package netsim

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/scenario"
)

func (r *fileReader) file(form fileForm) File {
	f := File{Pods: map[string]Addresses{}, VIPs: map[string][]netip.Addr{}}
	switch {
	case !r.Has("version"):
		r.add("version", "version is missing: write version: %d", FileVersion)
	case form.Version != FileVersion:
		r.add("version", "version must be %d, the one that this build reads, it is %d", FileVersion, form.Version)
	}
	f.Topology.Mesh = form.Mesh
	switch form.Mesh {
	case "":
		f.Topology.Mesh = scenario.Duomesh
	case scenario.Duomesh, scenario.DNAT, scenario.NoMesh:
	default:
		r.add("mesh", "mesh %q is none of %s, %s, %s", form.Mesh, scenario.Duomesh, scenario.DNAT, scenario.NoMesh)
	}
	if len(form.Nodes) == 0 || len(form.Nodes) > MaxNodes {
		r.add("nodes", "a cluster has 1 to %d nodes, here are %d", MaxNodes, len(form.Nodes))
	}
	for i, n := range form.Nodes {
		f.Topology.Nodes = append(f.Topology.Nodes, r.node(fmt.Sprintf("nodes[%d]", i), n, f.Pods))
	}
	for i, s := range form.Services {
		f.Objects.Services = append(f.Objects.Services, r.service(fmt.Sprintf("services[%d]", i), s, f.VIPs))
	}
	for _, w := range form.Waypoints {
		f.Objects.Waypoints = append(f.Objects.Waypoints, scenario.Waypoint(w))
	}
	return f
}

func (r *fileReader) locality(path, text string) scenario.Place {
	if text == "" {
		return scenario.Place{}
	}
	parts := strings.Split(text, "/")
	if len(parts) > 3 || slices.Contains(parts, "") {
		r.add(path, "locality %q is no REGION[/ZONE[/SUBZONE]]", text)
		return scenario.Place{}
	}
	parts = append(parts, "", "")
	return scenario.Place{Region: parts[0], Zone: parts[1], Subzone: parts[2]}
}

func (r *fileReader) node(path string, form nodeForm, addrs map[string]Addresses) scenario.Node {
	r.nameOf(path, "node", form.Name, r.nodes)
	n := scenario.Node{Name: form.Name, Place: r.locality(path+".locality", form.Locality)}
	for i, p := range form.Pods {
		n.Pods = append(n.Pods, r.pod(fmt.Sprintf("%s.pods[%d]", path, i), p, addrs))
	}
	return n
}

func (r *fileReader) pod(path string, form podForm, addrs map[string]Addresses) scenario.Pod {
	r.nameOf(path, "pod", form.Name, r.pods)
	r.ports(path+".serve", form.Name, form.Serve)
	r.ports(path+".serveFirst", form.Name, form.ServeFirst)
	r.ports(path+".serveUDP", form.Name, form.ServeUDP)
	a := Addresses{}
	if form.IPv4 != "" {
		a.IPv4 = r.address(path+".ipv4", form.IPv4)
		if a.IPv4.IsValid() && !a.IPv4.Is4() {
			r.add(path+".ipv4", "%s is not an IPv4 address", form.IPv4)
		}
	}
	if form.IPv6 != "" {
		a.IPv6 = r.address(path+".ipv6", form.IPv6)
		if a.IPv6.IsValid() && (!a.IPv6.Is6() || a.IPv6.Is4In6()) {
			r.add(path+".ipv6", "%s is not an IPv6 address", form.IPv6)
		}
	}
	if a != (Addresses{}) {
		addrs[form.Name] = a
	}
	return scenario.Pod{
		Name: form.Name, Serve: form.Serve, ServeFirst: form.ServeFirst, ServeUDP: form.ServeUDP,
		Managed: form.Managed, Waypoint: form.Waypoint,
	}
}

func (r *fileReader) ports(path, pod string, ports []uint16) {
	for i, port := range ports {
		if port == 0 || slices.Contains(ports[:i], port) {
			r.add(fmt.Sprintf("%s[%d]", path, i), "pod %s: port %d is zero or given twice", pod, port)
		}
	}
}

func (r *fileReader) nameOf(path, kind, name string, seen map[string]bool) {
	switch {
	case name == "":
		r.add(path+".name", "the name of a %s is missing", kind)
	case !label.MatchString(name):
		r.add(path+".name", "%s name %q is no lower-case DNS label", kind, name)
	case seen[name]:
		r.add(path+".name", "%s %s is declared twice", kind, name)
	}
	seen[name] = true
}

func (r *fileReader) address(path, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil {
		r.add(path, "%q is not an address", text)
	}
	return a
}

func (r *fileReader) service(path string, form serviceForm, vips map[string][]netip.Addr) scenario.Service {
	r.nameOf(path, "service", form.Name, r.services)
	s := scenario.Service{Name: form.Name, Family: form.Family, Waypoint: form.Waypoint, Routes: routesOf(form.Routes)}
	switch form.Family {
	case "":
		s.Family = scenario.IPv4
	case scenario.IPv4, scenario.IPv6, scenario.Dual:
	default:
		r.add(path+".family", "family %q is none of %s, %s, %s", form.Family, scenario.IPv4, scenario.IPv6, scenario.Dual)
	}
	for i, text := range form.Addresses {
		at := fmt.Sprintf("%s.addresses[%d]", path, i)
		a := r.address(at, text)
		if a.IsValid() && ((a.Is4() && !has4(s.Family)) || (a.Is6() && !has6(s.Family))) {
			r.add(at, "service %s is %s: %s is of another family", form.Name, s.Family, a)
		}
		vips[form.Name] = append(vips[form.Name], a)
	}
	if len(form.Ports) == 0 {
		r.add(path+".ports", "service %s has no port", form.Name)
	}
	for i, p := range form.Ports {
		s.Ports = append(s.Ports, r.port(fmt.Sprintf("%s.ports[%d]", path, i), form, i, p))
	}
	for i, e := range form.Endpoints {
		s.Endpoints = append(s.Endpoints, r.endpoint(fmt.Sprintf("%s.endpoints[%d]", path, i), form, i, e))
	}
	return s
}

func (r *fileReader) port(path string, of serviceForm, i int, form portForm) scenario.Port {
	if form.Port == 0 {
		r.add(path+".port", "service %s: a port is 1 to 65535", of.Name)
	}
	for _, earlier := range of.Ports[:i] {
		if earlier.Port == form.Port && earlier.protocol() == form.protocol() {
			r.add(path+".port", "service %s: port %d is declared twice", of.Name, form.Port)
		}
	}
	switch form.Protocol {
	case "", scenario.TCP, scenario.UDP:
	default:
		r.add(path+".protocol", "protocol %q is none of %s, %s", form.Protocol, scenario.TCP, scenario.UDP)
	}
	if form.Target == 0 {
		form.Target = form.Port
	}
	return scenario.Port{Port: form.Port, Target: form.Target, Protocol: form.Protocol, Name: form.Name}
}

func routesOf(forms []routeForm) []scenario.Route {
	var routes []scenario.Route
	for _, f := range forms {
		route := scenario.Route{Header: f.Header, Exact: f.Exact, Timeout: f.Timeout}
		for _, b := range f.Backends {
			weight := uint32(1)
			if b.Weight != nil {
				weight = *b.Weight
			}
			route.Backends = append(route.Backends, scenario.Backend{Service: b.Service, Port: b.Port, Weight: weight})
		}
		routes = append(routes, route)
	}
	return routes
}

func (r *fileReader) endpoint(path string, of serviceForm, i int, form endpointForm) scenario.Endpoint {
	if !r.pods[form.Pod] {
		r.add(path+".pod", "service %s: no pod %q is declared", of.Name, form.Pod)
	}
	for _, earlier := range of.Endpoints[:i] {
		if earlier.Pod == form.Pod {
			r.add(path+".pod", "service %s: endpoint %s is declared twice", of.Name, form.Pod)
		}
	}
	weight := uint32(1)
	if form.Weight != nil {
		weight = *form.Weight
	}
	return scenario.Endpoint{Pod: form.Pod, Weight: weight}
}

// plan finds what cannot be built although each value alone is right.
func (r *fileReader) plan(f File) {
	if err := checkTopology(f.Topology); err != nil {
		r.add("", "%v", err)
		return
	}
	if err := f.Objects.CheckWaypoints(f.Topology); err != nil {
		r.add(scenario.PathOf(err), "%v", err)
		return
	}
	addrs, err := planAddrs(f.Topology, f.Pods)
	if err == nil {
		_, err = newVIPs(f.VIPs, addrs)
	}
	if err != nil {
		r.add(addressPath(f, err), "%v", err)
	}
}

// addressPath leads to the declared address that an error is about.
func addressPath(f File, err error) string {
	var bad addressError
	if !errors.As(err, &bad) {
		return ""
	}
	for i, s := range f.Objects.Services {
		if bad.owner == "service "+s.Name {
			// The last, where it is there twice: the first was right.
			for j, a := range slices.Backward(f.VIPs[s.Name]) {
				if a == bad.addr {
					return fmt.Sprintf("services[%d].addresses[%d]", i, j)
				}
			}
		}
	}
	for i, n := range f.Topology.Nodes {
		for j, p := range n.Pods {
			if bad.owner == "pod "+p.Name {
				family := "ipv6"
				if bad.addr.Is4() {
					family = "ipv4"
				}
				return fmt.Sprintf("nodes[%d].pods[%d].%s", i, j, family)
			}
		}
	}
	return ""
}
