package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unique"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// reference is how a service or workload names its waypoint; the zero value names
// none. There is one copy of each, for all that name it.
type reference = unique.Handle[gateway]

// gateway is the key of a service, or an address on a network.
type gateway struct {
	service string
	network string
	addr    netip.Addr
}

func referenceOf(g *workloadapi.GatewayAddress) (none reference, err error) {
	if g == nil {
		return none, nil
	}
	r, err := gatewayOf(g)
	if err != nil {
		return none, fmt.Errorf("waypoint: %w", err)
	}
	return unique.Make(r), nil
}

func gatewayOf(g *workloadapi.GatewayAddress) (r gateway, err error) {
	switch {
	case g.GetHostname() != nil:
		h := g.GetHostname()
		if h.Hostname == "" {
			return r, errors.New("the hostname is empty")
		}
		r.service = h.Namespace + "/" + h.Hostname
	case g.GetAddress() != nil:
		a, ok := netip.AddrFromSlice(g.GetAddress().Address)
		if !ok {
			return r, fmt.Errorf("an address of %d bytes", len(g.GetAddress().Address))
		}
		r.network, r.addr = g.GetAddress().Network, a.Unmap()
	default:
		return r, errors.New("neither a hostname nor an address")
	}
	return r, nil
}

// String names it for people.
func (r gateway) String() string {
	if r.service != "" {
		return r.service
	}
	return r.addr.String()
}

// gatewayName writes the address of a gateway for people.
func gatewayName(g *workloadapi.GatewayAddress) string {
	r, err := gatewayOf(g)
	if err != nil {
		return "of unknown form"
	}
	return r.String()
}

// waypoint is one waypoint that services or workloads name.
type waypoint struct {
	gateway
	// users are those who name it.
	services  map[*service]struct{}
	workloads map[*workload]struct{}
	// behind is the service that is meant, nil when there is none of that name or
	// address; then replicas may be the workload of the address.
	behind   *service
	replicas []*workload
	out      *intent.Waypoint
}

// meets reports whether an address is the one that the waypoint is named by.
func (w *waypoint) meets(all []netip.Addr) bool {
	return w.addr.IsValid() && slices.Contains(all, w.addr)
}

// use says who names a waypoint now, and who did before.
func (m *mesh) use(old, now reference, put func(*waypoint), drop func(*waypoint)) {
	if old == now {
		return
	}
	if w := m.waypoints[old]; w != nil {
		drop(w)
		m.looked.add(w)
	}
	if now == (reference{}) {
		return
	}
	if m.waypoints[now] == nil {
		m.waypoints[now] = &waypoint{gateway: now.Value(), services: map[*service]struct{}{}, workloads: map[*workload]struct{}{}}
		if now.Value().addr.IsValid() {
			m.byAddress = append(m.byAddress, m.waypoints[now])
		}
	}
	put(m.waypoints[now])
	m.looked.add(m.waypoints[now])
}

// lookAt marks the waypoints that a change may concern: those that the services
// are, and those that are known by one of the addresses.
func (m *mesh) lookAt(s *service, addrs ...netip.Addr) {
	if s != nil && len(m.waypoints) > 0 {
		if w := m.waypoints[unique.Make(gateway{service: s.key})]; w != nil {
			m.looked.add(w)
		}
	}
	for _, w := range m.byAddress {
		if s != nil && w.behind == s || w.meets(addrs) {
			m.looked.add(w)
		}
	}
}

// find finds the replicas of a waypoint, and marks the workloads that become one
// or cease to be one.
func (m *mesh) find(w *waypoint) {
	before := w.replicas
	w.behind, w.replicas = nil, nil
	switch {
	case len(w.services)+len(w.workloads) == 0:
		delete(m.waypoints, unique.Make(w.gateway))
		m.byAddress = slices.DeleteFunc(m.byAddress, func(o *waypoint) bool { return o == w })
	case w.service != "":
		if s := m.services[w.service]; s != nil && s.base != nil {
			w.behind, w.replicas = s, slices.Clone(s.members)
		}
	default:
		m.findByAddress(w)
	}
	for _, r := range before {
		m.serve(r, -1)
	}
	for _, r := range w.replicas {
		m.serve(r, 1)
	}
}

// findByAddress is rare: it looks at all there is.
func (m *mesh) findByAddress(w *waypoint) {
	for _, s := range m.services {
		if s.base != nil && w.network == m.config.Network && w.meets(s.base.Addresses) && (w.behind == nil || s.key < w.behind.key) {
			w.behind = s
		}
	}
	if w.behind != nil {
		w.replicas = slices.Clone(w.behind.members)
		return
	}
	for _, o := range m.workloads {
		if o.base.Network == w.network && w.meets(o.base.Addresses) && !o.base.HostNetwork {
			w.replicas = append(w.replicas, o)
		}
	}
	slices.SortFunc(w.replicas, byUID)
}

func (m *mesh) serve(w *workload, by int) {
	was := w.serves > 0
	if w.serves += by; was != (w.serves > 0) {
		m.change(w)
	}
}

// publish makes the intent of a waypoint, and marks its users when it is another
// one.
func (m *mesh) publish(w *waypoint) {
	if m.waypoints[unique.Make(w.gateway)] != w {
		return // nobody names it any more
	}
	codec, _ := m.codec(w)
	out := &intent.Waypoint{Name: w.name(), Codec: codec, Port: codec.Port()}
	for _, r := range w.replicas {
		out.Endpoints = append(out.Endpoints, intent.Endpoint{Workload: r.out})
	}
	if w.behind != nil {
		out.Balance = w.behind.base.Balance
	}
	if w.out != nil && sameWaypoint(w.out, out) {
		return
	}
	w.out = out
	for s := range w.services {
		m.touched.add(s)
	}
	for o := range w.workloads {
		m.changed.add(o)
	}
}

func sameWaypoint(a, b *intent.Waypoint) bool {
	return a.Name == b.Name && a.Codec == b.Codec && a.Port == b.Port && sameValue(a.Balance, b.Balance) && slices.EqualFunc(a.Endpoints, b.Endpoints, func(x, y intent.Endpoint) bool { return x.Workload == y.Workload })
}

func (w *waypoint) name() string {
	if w.behind != nil {
		return w.behind.base.Key()
	}
	return w.String()
}

// lines says of a waypoint without replicas what becomes of connections.
func (w *waypoint) lines(network string) []string {
	live := slices.ContainsFunc(w.replicas, func(r *workload) bool {
		return r.out != nil && !r.out.Unhealthy && r.out.Weight > 0 && r.out.Network == network
	})
	if live {
		return nil
	}
	why := "has no healthy replica"
	if w.behind == nil && len(w.replicas) == 0 {
		why = "is not known to istiod"
	}
	var users []string
	if n := len(w.services); n > 0 {
		users = append(users, fmt.Sprintf("%d services", n))
	}
	if n := len(w.workloads); n > 0 {
		users = append(users, fmt.Sprintf("%d workloads", n))
	}
	return []string{fmt.Sprintf("waypoint %s %s: TCP connections to %s are refused (%s)",
		w, why, strings.Join(users, " and "), intent.RefuseNoWaypoint)}
}
