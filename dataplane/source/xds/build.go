package xds

import (
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// settle makes anew what an answer has changed, in the order of what follows from
// what.
func (m *mesh) settle() {
	m.looked.each(m.find)
	m.changed.each(func(w *workload) {
		if w.serves > 0 {
			m.buildWorkload(w)
		}
	})
	m.looked.each(m.publish)
	m.changed.each(func(w *workload) {
		if w.serves == 0 {
			m.buildWorkload(w)
		}
	})
	m.touched.each(m.buildService)
	m.changed.clear()
	m.touched.clear()
	m.looked.clear()
}

// change marks a workload that is to be made anew, and all that has it.
func (m *mesh) change(w *workload) {
	m.changed.add(w)
	for _, s := range w.services {
		m.touch(m.services[s.service])
	}
	m.lookAt(nil, w.base.Addresses...)
}

func (m *mesh) buildWorkload(w *workload) {
	if w.base == none.base { // it is gone
		m.published.workloads.remove(&w.at)
		return
	}
	out := m.derive(w)
	if out == w.out {
		return
	}
	w.out = out
	m.published.workloads.put(&w.at, out)
	for _, s := range w.services {
		m.touched.add(m.services[s.service])
		if w.serves > 0 { // and so the waypoint has
			m.lookAt(m.services[s.service])
		}
	}
	if w.serves > 0 {
		m.lookAt(nil, w.base.Addresses...)
	}
}

// derive adds what follows from other resources. The same comes back when nothing
// has changed.
func (m *mesh) derive(w *workload) *intent.Workload {
	gateway, addresses := w.serves > 0, w.base.Addresses
	var way *intent.Waypoint
	if p := m.waypoints[w.waypoint]; p != nil && !gateway {
		way = p.out
	}
	if h := m.names[w.base.Hostname]; h != nil {
		addresses = h.addresses
	}
	unprotected := m.config.RefuseUnenforced && m.named(w.base)
	switch last := w.out; {
	case last != nil && w.of == w.base && last.Gateway == gateway && last.Waypoint == way &&
		last.Unprotected == unprotected && slices.Equal(last.Addresses, addresses):
		return last
	case !gateway && way == nil && !unprotected && w.base.Hostname == "":
		w.of = w.base
		return w.base
	}
	w.of = w.base
	out := *w.base
	out.Gateway, out.Waypoint, out.Unprotected, out.Addresses = gateway, way, unprotected, addresses
	return &out
}

// buildService makes a service with its endpoints, in the order of their UIDs.
func (m *mesh) buildService(s *service) {
	if s.base == nil { // not sent yet, or gone
		m.published.services.remove(&s.at)
		return
	}
	out := *s.base
	if p := m.waypoints[s.waypoint]; p != nil && p.behind != s {
		out.Waypoint = p.out
	}
	if len(s.members) > 0 {
		out.Endpoints = make([]intent.Endpoint, len(s.members))
	}
	for i, w := range s.members {
		out.Endpoints[i] = intent.Endpoint{Workload: w.out, Ports: w.ports(s.key)}
	}
	m.published.services.put(&s.at, &out)
}

func (m *mesh) snapshot() intent.Snapshot {
	return intent.Snapshot{Services: m.published.services.all(), Workloads: m.published.workloads.all()}
}

// unused lists what was asked for and is not done, a line each.
func (m *mesh) unused() []string {
	all := m.notices.lines()
	for _, w := range m.waypoints {
		all = append(all, w.lines(m.config.Network)...)
	}
	all = append(all, m.handoffLines()...)
	for name, h := range m.names {
		all = append(all, h.lines(name)...)
	}
	slices.Sort(all)
	return all
}
