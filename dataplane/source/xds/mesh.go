package xds

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"reflect"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi/security"
)

// The types that are asked for.
const (
	addressType       = "type.googleapis.com/istio.workload.Address"
	authorizationType = "type.googleapis.com/istio.security.Authorization"
)

// mesh is all that istiod has sent, and the intent of it. What an answer costs
// grows with the answer: only what it names, and what follows from that, is made
// anew.
//
// What follows from what: a service has the workloads behind it; services and
// workloads have their waypoint; a waypoint has the workloads behind its service
// or at its address, and those are gateways, which have no waypoint themselves. So
// gateways are made first, then waypoints, workloads, services.
type mesh struct {
	config Config

	workloads map[string]*workload
	services  map[string]*service // also those that only workloads name
	policies  map[string]*intent.Policy
	unread    map[string]*intent.Policy // what is known of policies that are refused
	waypoints map[reference]*waypoint
	byAddress []*waypoint // those of waypoints that are named by an address
	names     map[string]*hostname
	renamed   int // how often a name came or went
	protects  protects
	notices   notices
	handoffs  map[string]string // annotations of Gateways; nil: not known yet

	published struct {
		workloads list[intent.Workload]
		services  list[intent.Service]
	}
	lastPorts map[uint16]uint16

	// What an answer has changed so far.
	changed marks[*workload]
	touched marks[*service]
	looked  marks[*waypoint]
}

func newMesh(c Config) *mesh {
	return &mesh{
		config:    c,
		workloads: map[string]*workload{}, services: map[string]*service{}, policies: map[string]*intent.Policy{},
		unread: map[string]*intent.Policy{}, waypoints: map[reference]*waypoint{}, names: map[string]*hostname{},
		protects: protects{namespaces: map[string]int{}}, notices: notices{},
	}
}

// take takes an answer and returns what of it is refused: of that the last good
// one stays.
func (m *mesh) take(r istiod.Response) map[string]error {
	refused := map[string]error{}
	for _, name := range r.Removed {
		m.remove(r.TypeURL, name)
	}
	if r.First && r.TypeURL == authorizationType {
		for name := range m.unread { // it comes again, or is gone
			m.setUnread(name, nil)
		}
	}
	for i, res := range r.Resources {
		var err error
		if r.TypeURL == authorizationType {
			err = m.policy(res)
		} else {
			err = m.address(res)
		}
		if err != nil {
			refused[res.Name] = err
		}
		r.Resources[i].Body = nil // a first answer is large
	}
	m.settle()
	return refused
}

func (m *mesh) policy(res istiod.Resource) error {
	var p security.Authorization
	err := decode(res.Body, &p)
	var out *intent.Policy
	if err == nil {
		out, err = decodePolicy(res.Name, &p)
	}
	if err != nil {
		m.setUnread(res.Name, unreadable(res.Name, &p))
		return err
	}
	m.setUnread(res.Name, nil)
	m.setPolicy(res.Name, out)
	return nil
}

func (m *mesh) address(res istiod.Resource) error {
	var a workloadapi.Address
	if err := decode(res.Body, &a); err != nil {
		return err
	}
	switch {
	case a.GetWorkload() != nil:
		w, err := m.decodeWorkload(res.Name, a.GetWorkload())
		if err == nil && m.isService(res.Name) {
			err = errors.New("a service has this name")
		}
		if err == nil {
			m.setWorkload(res.Name, w)
		}
		return err
	case a.GetService() != nil:
		s, err := m.decodeService(res.Name, a.GetService())
		if err == nil && m.workloads[res.Name] != nil {
			err = errors.New("a workload has this name")
		}
		if err == nil {
			m.setService(s)
		}
		return err
	}
	return errors.New("neither a workload nor a service")
}

func (m *mesh) isService(name string) bool {
	s := m.services[name]
	return s != nil && s.base != nil
}

func decode(body *anypb.Any, into proto.Message) error {
	if body == nil {
		return errors.New("no body")
	}
	if err := body.UnmarshalTo(into); err != nil {
		return fmt.Errorf("decode %s: %w", body.TypeUrl, err)
	}
	return nil
}

// sameValue compares what was decoded.
func sameValue[T any](a, b T) bool { return reflect.DeepEqual(a, b) }

// none is what is sent of a workload that is not there.
var none = sentWorkload{base: &intent.Workload{}}

func (m *mesh) setWorkload(name string, now sentWorkload) {
	w := m.workloads[name]
	switch {
	case w == nil:
		w = &workload{sentWorkload: none}
		m.workloads[name] = w
	case w.same(&now):
		return
	}
	m.changeWorkload(w, now)
}

// changeWorkload makes a workload what is sent now.
func (m *mesh) changeWorkload(w *workload, now sentWorkload) {
	m.changed.add(w)
	m.lookAt(nil, w.base.Addresses...)
	m.lookAt(nil, now.base.Addresses...)
	for _, s := range w.services {
		m.part(s.service, w)
	}
	m.use(w.waypoint, now.waypoint,
		func(p *waypoint) { p.workloads[w] = struct{}{} }, func(p *waypoint) { delete(p.workloads, w) })
	m.resolve(w, w.base.Hostname, now.base.Hostname)
	if len(w.notices)+len(now.notices) > 0 {
		m.notices.set("workload "+cmp.Or(w.base.UID, now.base.UID), w.notices, now.notices)
	}
	w.sentWorkload = now
	for _, s := range w.services {
		m.meet(s.service, w)
	}
}

// meet puts a workload behind a service, known or not yet.
func (m *mesh) meet(key string, w *workload) {
	s := m.services[key]
	if s == nil {
		s = &service{key: key}
		m.services[key] = s
	}
	s.join(w)
	m.touch(s)
}

// part takes a workload out of a service that it was behind.
func (m *mesh) part(key string, w *workload) {
	s := m.services[key]
	s.leave(w)
	m.touch(s)
	if len(s.members) == 0 && s.base == nil {
		delete(m.services, key)
	}
}

func (m *mesh) touch(s *service) {
	m.touched.add(s)
	m.lookAt(s)
}

func (m *mesh) setService(now *service) {
	s := m.services[now.key]
	if s == nil {
		s = &service{key: now.key}
		m.services[now.key] = s
	}
	if s.base != nil && s.same(now) {
		return
	}
	m.changeService(s, now)
}

// changeService makes a service what is sent now; nothing when it is gone.
func (m *mesh) changeService(s, now *service) {
	var addrs []netip.Addr
	for _, one := range []*service{s, now} {
		if one.base != nil {
			addrs = append(addrs, one.base.Addresses...)
		}
	}
	m.use(s.waypoint, now.waypoint,
		func(p *waypoint) { p.services[s] = struct{}{} }, func(p *waypoint) { delete(p.services, s) })
	m.notices.set("service "+s.key, s.notices, now.notices)
	s.base, s.waypoint, s.notices = now.base, now.waypoint, now.notices
	m.touch(s)
	m.lookAt(s, addrs...)
}

func (m *mesh) remove(typeURL, name string) {
	if typeURL == authorizationType {
		m.setPolicy(name, nil)
		m.setUnread(name, nil)
		return
	}
	if w := m.workloads[name]; w != nil {
		delete(m.workloads, name)
		m.changeWorkload(w, none)
		return
	}
	if s := m.services[name]; s != nil && s.base != nil {
		m.changeService(s, &service{})
		if len(s.members) == 0 {
			delete(m.services, name)
		}
	}
}
