package file

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// anyMode is how the form writes intent.Any.
const anyMode = "any"

var modes = []string{anyMode, string(intent.Strict), string(intent.Failover), string(intent.Passthrough)}

var scopes = []string{
	string(intent.ScopeNetwork), string(intent.ScopeRegion), string(intent.ScopeZone),
	string(intent.ScopeSubzone), string(intent.ScopeNode), string(intent.ScopeCluster),
}

// builder makes a Snapshot of a document: it resolves references and checks
// what needs more than one value. A value that the reader could not read is
// zero here, and not complained about again.
type builder struct {
	problems
	workloads map[string]*intent.Workload   // by UID
	named     map[string][]*intent.Workload // by namespace/name
	waypoints map[string]*intent.Waypoint   // by name
	services  map[string]*intent.Service    // by key
}

func (b *builder) snapshot(d document) intent.Snapshot {
	var s intent.Snapshot
	s.Workloads = b.allWorkloads(d.Workloads)
	b.allWaypoints(d.Waypoints)
	for i, w := range d.Workloads {
		s.Workloads[i].Waypoint = b.waypoint("workloads["+strconv.Itoa(i)+"].waypoint", w.Waypoint, w.waypointAt)
	}
	s.Services = b.allServices(d.Services)
	s.Policies = b.allPolicies(d.Policies)
	for i, r := range d.Routes {
		s.Routes = append(s.Routes, b.route("routes["+strconv.Itoa(i)+"]", r))
	}
	return s
}

func (b *builder) allWorkloads(all []workload) []*intent.Workload {
	b.workloads = make(map[string]*intent.Workload, len(all))
	b.named = make(map[string][]*intent.Workload, len(all))
	unique := register{kind: "workload", problems: &b.problems}
	var made []*intent.Workload
	for i, form := range all {
		path := "workloads[" + strconv.Itoa(i) + "]"
		if form.UID == "" && form.Name == "" && !form.bad {
			b.Add(form.at, "%s needs a name or a uid", path)
		}
		w := form.value()
		made = append(made, w)
		unique.add(path, w.UID, form.at)
		b.workloads[w.UID] = w
		if w.Name != "" {
			key := w.Namespace + "/" + w.Name
			b.named[key] = append(b.named[key], w)
		}
	}
	return made
}

func (w workload) value() *intent.Workload {
	v := &intent.Workload{
		UID: w.UID, Name: w.Name, Namespace: w.Namespace, Addresses: w.Addresses, Weight: w.Weight,
		Node: w.Node, Network: w.Network, Cluster: w.Cluster,
		Unhealthy: w.Unhealthy, HostNetwork: w.HostNetwork, Gateway: w.Gateway,
		Hostname: w.Hostname, Unprotected: w.Unprotected,
	}
	if v.UID == "" && w.Name != "" {
		v.UID = defaultUID(w.Namespace, w.Name)
	}
	if l := w.Locality; l != nil {
		v.Locality = intent.Locality(*l)
	}
	return v
}

// defaultUID is the UID of a workload that is given none.
func defaultUID(namespace, name string) string { return namespace + "/" + name }

func (b *builder) allWaypoints(all []waypoint) {
	b.waypoints = make(map[string]*intent.Waypoint, len(all))
	unique := register{kind: "waypoint", problems: &b.problems}
	for i, w := range all {
		path := "waypoints[" + strconv.Itoa(i) + "]"
		unique.add(path, w.Name, w.at)
		b.waypoints[w.Name] = &intent.Waypoint{
			Name:      w.Name,
			Codec:     intent.Codec(w.Codec),
			Port:      cmp.Or(w.Port, intent.Codec(w.Codec).Port()),
			Endpoints: b.endpoints(path, w.Endpoints, defaultNamespace),
			Balance:   b.balance(path+".balance", w.Balance),
		}
	}
}

func (b *builder) allServices(all []service) []*intent.Service {
	b.services = make(map[string]*intent.Service, len(all))
	unique := register{kind: "service", problems: &b.problems}
	var made []*intent.Service
	for i, form := range all {
		path := "services[" + strconv.Itoa(i) + "]"
		s := &intent.Service{
			Name: form.Name, Namespace: form.Namespace, Hostname: form.Hostname,
			Addresses: form.Addresses, Canonical: form.Canonical,
			Ports:     b.ports(path, form.Ports),
			Endpoints: b.endpoints(path, form.Endpoints, form.Namespace),
			Waypoint:  b.waypoint(path+".waypoint", form.Waypoint, form.waypointAt),
			Balance:   b.balance(path+".balance", form.Balance),
		}
		b.ownPorts(path, s.Ports, form.Endpoints)
		made = append(made, s)
		if form.Name != "" {
			unique.add(path, s.Key(), form.at)
			b.services[s.Key()] = s
		}
	}
	return made
}

func (b *builder) ports(path string, all []port) []intent.Port {
	unique := register{kind: "port", problems: &b.problems}
	var made []intent.Port
	for i, form := range all {
		p := intent.Port{Port: form.Port, Target: form.Port, Name: form.Name, Protocol: intent.TCP}
		if form.TargetPort != nil {
			p.Target = uint16(*form.TargetPort)
		}
		if form.Protocol == intent.UDP.String() {
			p.Protocol = intent.UDP
		}
		made = append(made, p)
		if p.Port != 0 && form.Protocol != "" {
			unique.add(path+".ports["+strconv.Itoa(i)+"]", strconv.Itoa(int(p.Port))+"/"+form.Protocol, form.at)
		}
	}
	return made
}

func (b *builder) endpoints(path string, all []endpoint, namespace string) []intent.Endpoint {
	unique := register{kind: "endpoint", problems: &b.problems}
	var made []intent.Endpoint
	for i, form := range all {
		at := path + ".endpoints[" + strconv.Itoa(i) + "]"
		w := b.workload(at+".workload", form.Workload, namespace, form.at)
		if w == nil {
			continue
		}
		unique.add(at, w.UID, form.at)
		made = append(made, intent.Endpoint{Workload: w, Ports: form.Ports})
	}
	return made
}

// ownPorts complains of an endpoint's own port for a port that the service
// does not declare: it would never be used.
func (b *builder) ownPorts(path string, ports []intent.Port, all []endpoint) {
	declared := map[uint16]bool{}
	for _, p := range ports {
		if p.Port == 0 {
			return // could not be read: what is declared is not known
		}
		declared[p.Port] = true
	}
	for i, e := range all {
		for _, port := range slices.Sorted(maps.Keys(e.Ports)) {
			if !declared[port] {
				b.Add(e.portsAt[port], "%s.endpoints[%d].ports.%d: the service declares no port %d", path, i, port, port)
			}
		}
	}
}

func (b *builder) balance(path string, form *balance) intent.Balance {
	if form == nil {
		return intent.Balance{}
	}
	v := intent.Balance{Mode: intent.Mode(form.Mode), AllowUnhealthy: form.AllowUnhealthy}
	if form.Mode == anyMode {
		v.Mode = intent.Any
	}
	for _, s := range form.Prefer {
		v.Prefer = append(v.Prefer, intent.Scope(s))
	}
	local := v.Mode == intent.Strict || v.Mode == intent.Failover
	switch {
	case form.bad:
	case local && len(v.Prefer) == 0:
		b.Add(form.at, "%s: mode %s needs prefer", path, form.Mode)
	case !local && len(v.Prefer) > 0:
		b.Add(form.at, "%s: prefer has no effect in mode %s, only in strict and failover", path, form.Mode)
	}
	return v
}

func (b *builder) allPolicies(all []policy) []*intent.Policy {
	unique := register{kind: "policy", problems: &b.problems}
	var made []*intent.Policy
	for i, form := range all {
		path := "policies[" + strconv.Itoa(i) + "]"
		p := &intent.Policy{Name: form.Name, Namespace: form.Namespace, Deny: form.Deny}
		for j, ref := range form.Workloads {
			at := position{}
			if j < len(form.itemsAt) {
				at = form.itemsAt[j]
			}
			if w := b.workload(path+".workloads["+strconv.Itoa(j)+"]", ref, form.Namespace, at); w != nil {
				p.Workloads = append(p.Workloads, w.UID)
			}
		}
		made = append(made, p)
		if p.Name != "" {
			unique.add(path, p.Key(), form.at)
		}
	}
	return made
}

func (b *builder) route(path string, form route) *intent.Route {
	r := &intent.Route{Timeout: form.Timeout, Service: b.service(path+".service", form.Service, form.at)}
	if m := form.Match; m != nil {
		r.Match = intent.HeaderMatch{Name: m.Header, Exact: m.Exact}
	}
	for i, be := range form.Backends {
		at := path + ".backends[" + strconv.Itoa(i) + "].service"
		r.Backends = append(r.Backends, intent.Backend{
			Service: b.service(at, be.Service, be.at), Port: be.Port, Weight: be.Weight,
		})
	}
	if len(r.Backends) == 0 && !form.bad {
		b.Add(form.at, "%s.backends must have at least one item", path)
	}
	return r
}
