package file

import (
	"net/netip"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/strictyaml"
)

// document reads the whole of a file. A file of another version is not read
// further: what its keys mean is not known here.
func (r *reader) document(n ast.Node) document {
	var d document
	if !r.version(n) {
		return d
	}
	d.Version = version
	r.mapping("", n, fields{
		"version":   {read: func(string, ast.Node) {}, needed: true},
		"services":  list(r, &d.Services, r.service),
		"workloads": list(r, &d.Workloads, r.workload),
		"waypoints": list(r, &d.Waypoints, r.waypoint),
		"policies":  list(r, &d.Policies, r.policy),
		"routes":    list(r, &d.Routes, r.route),
	})
	return d
}

// version reports whether the file is of the version that this build reads; a
// missing one is left to the caller.
func (r *reader) version(n ast.Node) bool {
	values, ok := r.Entries("", n)
	for _, v := range values {
		if v.Key.GetToken().Value != "version" {
			continue
		}
		if got, isNumber := strictyaml.Decimal(v.Value); !isNumber || got != version {
			r.Add(strictyaml.Where(v.Value), "version must be %d, the one that this build reads, it is %s", version, strictyaml.Describe(v.Value))
			return false
		}
	}
	return ok
}

func (r *reader) service(path string, n ast.Node) service {
	s := service{at: strictyaml.Where(n), Namespace: defaultNamespace}
	r.mapping(path, n, fields{
		"name":      r.name(&s.Name).required(),
		"namespace": r.text(&s.Namespace),
		"hostname":  r.text(&s.Hostname),
		"addresses": list(r, &s.Addresses, r.address),
		"ports":     list(r, &s.Ports, r.port),
		"endpoints": list(r, &s.Endpoints, r.endpoint),
		"waypoint":  r.reference(&s.Waypoint, &s.waypointAt),
		"balance":   {read: func(path string, n ast.Node) { s.Balance = r.balance(path, n) }},
		"canonical": r.boolean(&s.Canonical),
	})
	return s
}

func (r *reader) address(path string, n ast.Node) netip.Addr {
	s, ok := n.(*ast.StringNode)
	if !ok {
		r.Wrong(path, n, "an IPv4 or IPv6 address")
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s.Value)
	if err != nil {
		r.Wrong(path, n, "an IPv4 or IPv6 address")
		return netip.Addr{}
	}
	if reason := intent.Unusable(a); reason != "" {
		r.Add(strictyaml.Where(n), "%s: address %s cannot be used: %s", path, a, reason)
	}
	return a
}

func (r *reader) port(path string, n ast.Node) port {
	p := port{at: strictyaml.Where(n), Protocol: intent.TCP.String()}
	r.mapping(path, n, fields{
		"port":       r.portNumber(&p.Port).required(),
		"targetPort": {read: func(path string, n ast.Node) { p.TargetPort = r.target(path, n) }},
		"name":       r.text(&p.Name),
		"protocol":   r.oneOf(&p.Protocol, intent.TCP.String(), intent.UDP.String()),
	})
	return p
}

func (r *reader) target(path string, n ast.Node) *targetPort {
	var t targetPort
	if s, ok := n.(*ast.StringNode); ok && s.Value == namedPort {
		return &t
	}
	v, ok := strictyaml.Decimal(n)
	if !ok || v < 1 || v > 65535 {
		r.Wrong(path, n, "a decimal number from 1 to 65535 or "+namedPort)
		return nil
	}
	t = targetPort(v)
	return &t
}

func (r *reader) endpoint(path string, n ast.Node) endpoint {
	e := endpoint{at: strictyaml.Where(n)}
	r.mapping(path, n, fields{
		"workload": r.reference(&e.Workload, &e.at).required(),
		"ports":    {read: func(path string, n ast.Node) { r.ownPorts(path, n, &e) }},
	})
	return e
}

// replica is an endpoint of a waypoint: its port is the waypoint's.
func (r *reader) replica(path string, n ast.Node) endpoint {
	e := endpoint{at: strictyaml.Where(n)}
	r.mapping(path, n, fields{"workload": r.reference(&e.Workload, &e.at).required()})
	return e
}

// ownPorts reads the mapping from service ports to an endpoint's own.
func (r *reader) ownPorts(path string, n ast.Node, e *endpoint) {
	values, _ := r.Entries(path, n)
	e.Ports = make(map[uint16]uint16, len(values))
	e.portsAt = make(map[uint16]position, len(values))
	for _, v := range values {
		key, ok := r.Number("a key of "+path, v.Key, 1, 65535)
		if !ok {
			continue
		}
		at := strictyaml.Join(path, v.Key.GetToken().Value)
		if first, twice := e.portsAt[uint16(key)]; twice {
			r.Add(strictyaml.Where(v.Key), "%s is given twice, first in line %d", at, first.Line)
			continue
		}
		own, _ := r.Number(at, v.Value, 1, 65535)
		e.Ports[uint16(key)], e.portsAt[uint16(key)] = uint16(own), strictyaml.Where(v.Key)
	}
}

func (r *reader) balance(path string, n ast.Node) *balance {
	b := balance{at: strictyaml.Where(n), Mode: anyMode}
	b.bad = !r.mapping(path, n, fields{
		"mode":           r.oneOf(&b.Mode, modes...),
		"prefer":         list(r, &b.Prefer, func(path string, n ast.Node) string { return r.wordOf(path, n, scopes) }),
		"allowUnhealthy": r.boolean(&b.AllowUnhealthy),
	})
	return &b
}

func (r *reader) workload(path string, n ast.Node) workload {
	w := workload{at: strictyaml.Where(n), Namespace: defaultNamespace, Weight: 1}
	w.bad = !r.mapping(path, n, fields{
		"uid":         r.name(&w.UID),
		"name":        r.name(&w.Name),
		"namespace":   r.text(&w.Namespace),
		"addresses":   list(r, &w.Addresses, r.address),
		"weight":      r.weight(&w.Weight),
		"node":        r.text(&w.Node),
		"network":     r.text(&w.Network),
		"cluster":     r.text(&w.Cluster),
		"locality":    {read: func(path string, n ast.Node) { w.Locality = r.locality(path, n) }},
		"unhealthy":   r.boolean(&w.Unhealthy),
		"hostNetwork": r.boolean(&w.HostNetwork),
		"waypoint":    r.reference(&w.Waypoint, &w.waypointAt),
		"gateway":     r.boolean(&w.Gateway),
		"hostname":    r.text(&w.Hostname),
		"unprotected": r.boolean(&w.Unprotected),
	})
	return w
}

func (r *reader) weight(dst *uint32) field {
	return field{read: func(path string, n ast.Node) {
		v, _ := r.Number(path, n, 0, 1<<32-1)
		*dst = uint32(v)
	}}
}

func (r *reader) locality(path string, n ast.Node) *locality {
	var l locality
	r.mapping(path, n, fields{
		"region":  r.text(&l.Region),
		"zone":    r.text(&l.Zone),
		"subzone": r.text(&l.Subzone),
	})
	return &l
}

func (r *reader) waypoint(path string, n ast.Node) waypoint {
	w := waypoint{at: strictyaml.Where(n), Codec: string(intent.OriginalDst)}
	r.mapping(path, n, fields{
		"name":      r.name(&w.Name).required(),
		"codec":     r.oneOf(&w.Codec, string(intent.OriginalDst), string(intent.ProxyV2), string(intent.KmeshTLV)),
		"port":      r.portNumber(&w.Port),
		"endpoints": list(r, &w.Endpoints, r.replica),
		"balance":   {read: func(path string, n ast.Node) { w.Balance = r.balance(path, n) }},
	})
	return w
}

func (r *reader) policy(path string, n ast.Node) policy {
	p := policy{at: strictyaml.Where(n), Namespace: defaultNamespace}
	r.mapping(path, n, fields{
		"name":      r.name(&p.Name).required(),
		"namespace": r.text(&p.Namespace),
		"workloads": list(r, &p.Workloads, func(path string, n ast.Node) string {
			p.itemsAt = append(p.itemsAt, strictyaml.Where(n))
			return r.nameOf(path, n)
		}),
		"deny": r.boolean(&p.Deny),
	})
	return p
}

func (r *reader) route(path string, n ast.Node) route {
	t := route{at: strictyaml.Where(n)}
	t.bad = !r.mapping(path, n, fields{
		"service":  r.reference(&t.Service, &t.at).required(),
		"match":    {read: func(path string, n ast.Node) { t.Match = r.match(path, n) }},
		"backends": list(r, &t.Backends, r.backend).required(),
		"timeout":  r.duration(&t.Timeout),
	})
	return t
}

func (r *reader) match(path string, n ast.Node) *match {
	m := match{at: strictyaml.Where(n)}
	r.mapping(path, n, fields{
		"header": r.name(&m.Header).required(),
		"exact":  r.text(&m.Exact).required(),
	})
	return &m
}

func (r *reader) backend(path string, n ast.Node) backend {
	b := backend{at: strictyaml.Where(n), Weight: 1}
	r.mapping(path, n, fields{
		"service": r.reference(&b.Service, &b.at).required(),
		"port":    r.portNumber(&b.Port).required(),
		"weight":  r.weight(&b.Weight),
	})
	return b
}

func (r *reader) duration(dst *time.Duration) field {
	return field{read: func(path string, n ast.Node) { *dst = r.Duration(path, n) }}
}
