package xds

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/source/xds/names"
	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi/security"
)

// Whatever istiod sends: no panic, and what is taken is a valid Snapshot.
func FuzzDecode(f *testing.F) {
	for _, file := range []string{"ztunnel-address.delta.pb", "ztunnel-authorization.delta.pb"} {
		r := recorded(f, file)
		for _, res := range r.Resources {
			f.Add(r.TypeURL == authorizationType, res.Name, res.Body.Value)
		}
	}
	f.Fuzz(func(t *testing.T, policy bool, name string, value []byte) {
		m := newMesh(Config{RefuseUnenforced: true})
		r := istiod.Response{TypeURL: addressType}
		if policy {
			r.TypeURL = authorizationType
		}
		for range 2 {
			r.Removed = nil
			r.Resources = []istiod.Resource{{Name: name, Body: &anypb.Any{TypeUrl: r.TypeURL, Value: value}}}
			m.take(r)
			must(t, m.snapshot().Validate())
			m.unused()
		}
		r.Removed, r.Resources = []string{name}, nil
		m.take(r)
		if s := m.snapshot(); len(s.Services)+len(s.Workloads)+len(m.allPolicies())+len(m.unused()) != 0 {
			t.Errorf("after all was removed: %+v, %v", s, m.unused())
		}
	})
}

// script makes changes of bytes: few names, so that changes meet.
type script struct{ bytes []byte }

func (s *script) next(n byte) byte {
	if len(s.bytes) == 0 {
		return 0
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return b % n
}

func (s *script) gateway() *workloadapi.GatewayAddress {
	switch s.next(4) {
	case 0:
		return byName(fmt.Sprint("s", s.next(4)))
	case 1:
		return byIP(fmt.Sprint("10.9.0.", 1+s.next(4)))
	case 2:
		return byIP(fmt.Sprint("10.1.0.", 1+s.next(4)))
	}
	return nil
}

func (s *script) service() *discovery.Resource {
	return svc(fmt.Sprint("s", s.next(4)), fmt.Sprint("10.9.0.", 1+s.next(4)), through(s.gateway()), func(one *workloadapi.Service) {
		one.Canonical = s.next(2) == 0
		one.LoadBalancing = &workloadapi.LoadBalancing{Mode: workloadapi.LoadBalancing_Mode(s.next(4))}
		if s.next(4) == 0 {
			one.Hostname = one.Name // a ServiceEntry
		}
	})
}

func (s *script) workload() *discovery.Resource {
	id := s.next(4)
	var services []string
	for i, on := 0, s.next(16); i < 4; i++ {
		if on>>i&1 == 1 {
			services = append(services, fmt.Sprint("s", i))
		}
	}
	return wl(fmt.Sprint("w", id), fmt.Sprint("10.1.0.", 1+s.next(4)), services, behind(s.gateway()), func(w *workloadapi.Workload) {
		w.Status = workloadapi.WorkloadStatus(s.next(2))
		w.Capacity = wrapperspb.UInt32(uint32(s.next(3)))
		if s.next(4) == 0 {
			w.Addresses, w.Hostname = nil, fmt.Sprint("h", s.next(2))
		}
		if s.next(4) == 0 {
			w.AuthorizationPolicies = []string{fmt.Sprint("demo/p", s.next(2))}
		}
	})
}

func (s *script) policy() *discovery.Resource {
	return authz(fmt.Sprint("p", s.next(2)), func(a *security.Authorization) {
		a.Scope, a.DryRun = security.Scope(s.next(3)), s.next(2) == 0
	})
}

func (s *script) answer() (string, names.Answer) {
	a := answers(nil)
	for range s.next(3) {
		a.Addresses = append(a.Addresses, netip.AddrFrom4([4]byte{10, 2, 0, s.next(4)}))
	}
	slices.SortFunc(a.Addresses, netip.Addr.Compare)
	a.Addresses = slices.Compact(a.Addresses)
	if s.next(4) == 0 {
		a.Err = errors.New("no answer")
	}
	return fmt.Sprint("h", s.next(2)), a
}

// held is what a mesh was given and did not refuse.
type held struct {
	byType  map[string]map[string]*discovery.Resource
	answers map[string]names.Answer
}

// Any sequence of changes gives the Snapshot that what is left of them gives when it
// comes at once.
func FuzzBuild(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 3, 0, 0, 1, 1, 1, 1, 0, 2, 3, 1, 0, 1})
	f.Add([]byte("waypoints, names and policies that come and go"))
	for seed := range byte(8) {
		var program []byte
		for i := range byte(200) {
			program = append(program, (i*31+seed*17)^(i>>2)*seed)
		}
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 2000 {
			return // long ones find nothing that short ones do not
		}
		s, m := &script{program}, newMesh(Config{RefuseUnenforced: true})
		have := held{map[string]map[string]*discovery.Resource{addressType: {}, authorizationType: {}}, map[string]names.Answer{}}
		for len(s.bytes) > 0 {
			s.step(m, have)
			must(t, m.snapshot().Validate())
		}
		if diff := different(m.snapshot(), have.fresh(t).snapshot()); diff != "" {
			t.Errorf("it is not what is left, at once (-got +want):\n%s", diff)
		}
	})
}

// step makes one change.
func (s *script) step(m *mesh, have held) {
	var r *discovery.Resource
	typeURL := addressType
	switch s.next(6) {
	case 0:
		r = s.service()
	case 1, 2:
		r = s.workload()
	case 3:
		r, typeURL = s.policy(), authorizationType
	case 4:
		name, a := s.answer()
		if m.names[name] != nil {
			have.answers[name] = a
		}
		m.resolved(name, a)
		return
	default:
		all := have.byType[addressType]
		if len(all) == 0 {
			return
		}
		name := slices.Sorted(maps.Keys(all))[int(s.next(255))%len(all)]
		delete(all, name)
		m.take(istiod.Response{TypeURL: addressType, Removed: []string{name}})
		have.forget(m)
		return
	}
	refused := m.take(istiod.Response{TypeURL: typeURL, Resources: []istiod.Resource{{Name: r.Name, Body: r.Resource}}})
	if len(refused) == 0 {
		have.byType[typeURL][r.Name] = r
	}
	have.forget(m)
}

// forget drops the answers for names that nobody wants any more.
func (h held) forget(m *mesh) {
	for name := range h.answers {
		if m.names[name] == nil {
			delete(h.answers, name)
		}
	}
}

func (h held) fresh(t *testing.T) *mesh {
	m := newMesh(Config{RefuseUnenforced: true})
	for typeURL, all := range h.byType {
		var sorted []*discovery.Resource
		for _, name := range slices.Sorted(maps.Keys(all)) {
			sorted = append(sorted, all[name])
		}
		m.give(t, typeURL, sorted)
	}
	for name, a := range h.answers {
		m.resolved(name, a)
	}
	return m
}

// different compares Snapshots whatever their order.
func different(got, want intent.Snapshot) string {
	for _, s := range []intent.Snapshot{got, want} {
		slices.SortFunc(s.Services, func(a, b *intent.Service) int { return cmp.Compare(a.Key(), b.Key()) })
		slices.SortFunc(s.Workloads, func(a, b *intent.Workload) int { return cmp.Compare(a.UID, b.UID) })
	}
	if reflect.DeepEqual(got, want) {
		return ""
	}
	return gocmp.Diff(got, want, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty())
}
