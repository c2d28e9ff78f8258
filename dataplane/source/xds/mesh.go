package xds

import (
	"fmt"
	"maps"
	"slices"

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
// grows with the answer: only what it names, and the services whose endpoints it
// names, are made anew.
type mesh struct {
	network string

	workloads *list[intent.Workload]
	services  *list[intent.Service]
	policies  map[string]struct{}
	// sent are the resources as they came, by name.
	sentWorkloads map[string]*workloadapi.Workload
	sentServices  map[string]*workloadapi.Service
	// members are the workloads behind a service, known or not yet.
	members map[string]map[string]struct{}
	notices map[string][]string
}

func newMesh(network string) *mesh {
	return &mesh{
		network:   network,
		workloads: newList[intent.Workload](), services: newList[intent.Service](), policies: map[string]struct{}{},
		sentWorkloads: map[string]*workloadapi.Workload{}, sentServices: map[string]*workloadapi.Service{},
		members: map[string]map[string]struct{}{}, notices: map[string][]string{},
	}
}

// take takes an answer and returns what of it is refused.
func (m *mesh) take(r istiod.Response) map[string]error {
	refused := map[string]error{}
	touched := map[string]struct{}{}
	for _, res := range r.Resources {
		var err error
		if r.TypeURL == authorizationType {
			err = m.policy(res)
		} else {
			err = m.address(res, touched)
		}
		if err != nil {
			refused[res.Name] = err
		}
	}
	for _, name := range r.Removed {
		m.remove(r.TypeURL, name, touched)
	}
	for _, key := range slices.Sorted(maps.Keys(touched)) {
		if err := m.build(key); err != nil {
			refused[key] = err
		}
	}
	return refused
}

func (m *mesh) policy(res istiod.Resource) error {
	var p security.Authorization
	if err := decode(res.Body, &p); err != nil {
		return err
	}
	m.policies[res.Name] = struct{}{}
	return nil
}

func (m *mesh) address(res istiod.Resource, touched map[string]struct{}) error {
	var a workloadapi.Address
	if err := decode(res.Body, &a); err != nil {
		return err
	}
	switch {
	case a.GetWorkload() != nil:
		return m.setWorkload(a.GetWorkload(), touched)
	case a.GetService() != nil:
		return m.setService(a.GetService(), touched)
	}
	return fmt.Errorf("neither a workload nor a service")
}

func decode(body *anypb.Any, into proto.Message) error {
	if body == nil {
		return fmt.Errorf("no body")
	}
	if err := body.UnmarshalTo(into); err != nil {
		return fmt.Errorf("decode %s: %w", body.TypeUrl, err)
	}
	return nil
}

func (m *mesh) setWorkload(w *workloadapi.Workload, touched map[string]struct{}) error {
	out, notices, err := workload(w)
	if err != nil {
		return err
	}
	if err := (intent.Snapshot{Workloads: []*intent.Workload{out}}).Validate(); err != nil {
		return err
	}
	for key := range w.Services {
		if _, err := portsOf(w, key); err != nil {
			return err
		}
	}
	m.leave(w.Uid, touched)
	m.sentWorkloads[w.Uid] = w
	m.workloads.set(w.Uid, out)
	m.note("workload "+w.Uid, notices)
	for key := range w.Services {
		if m.members[key] == nil {
			m.members[key] = map[string]struct{}{}
		}
		m.members[key][w.Uid] = struct{}{}
		touched[key] = struct{}{}
	}
	return nil
}

// leave takes a workload out of the services that it was behind.
func (m *mesh) leave(uid string, touched map[string]struct{}) {
	for key := range m.sentWorkloads[uid].GetServices() {
		delete(m.members[key], uid)
		if len(m.members[key]) == 0 {
			delete(m.members, key)
		}
		touched[key] = struct{}{}
	}
}

func (m *mesh) setService(s *workloadapi.Service, touched map[string]struct{}) error {
	out, notices, err := service(s, m.network)
	if err != nil {
		return err
	}
	if err := (intent.Snapshot{Services: []*intent.Service{out}}).Validate(); err != nil {
		return err
	}
	key := serviceKey(s)
	m.sentServices[key] = s
	m.note("service "+key, notices)
	touched[key] = struct{}{}
	return nil
}

func (m *mesh) remove(typeURL, name string, touched map[string]struct{}) {
	if typeURL == authorizationType {
		delete(m.policies, name)
		return
	}
	if _, is := m.sentWorkloads[name]; is {
		m.leave(name, touched)
		delete(m.sentWorkloads, name)
		m.workloads.remove(name)
		m.note("workload "+name, nil)
		return
	}
	delete(m.sentServices, name)
	m.services.remove(name)
	m.note("service "+name, nil)
	delete(touched, name)
}

// build makes a service with its endpoints, in the order of their names.
func (m *mesh) build(key string) error {
	sent := m.sentServices[key]
	if sent == nil {
		return nil // its workloads came first, or it is gone
	}
	out, _, err := service(sent, m.network)
	if err != nil {
		return err
	}
	for _, uid := range slices.Sorted(maps.Keys(m.members[key])) {
		own, err := portsOf(m.sentWorkloads[uid], key)
		if err != nil {
			return err
		}
		out.Endpoints = append(out.Endpoints, intent.Endpoint{Workload: m.workloads.get(uid), Ports: own})
	}
	m.services.set(key, out)
	return nil
}

func (m *mesh) note(name string, notices []string) {
	if len(notices) == 0 {
		delete(m.notices, name)
	} else {
		m.notices[name] = notices
	}
}

func (m *mesh) snapshot() intent.Snapshot {
	return intent.Snapshot{Services: m.services.all(), Workloads: m.workloads.all()}
}

// unused lists what was asked for and is not done, a line each.
func (m *mesh) unused() []string {
	var all []string
	for name, notices := range m.notices {
		for _, n := range notices {
			all = append(all, name+": "+n)
		}
	}
	slices.Sort(all)
	return all
}
