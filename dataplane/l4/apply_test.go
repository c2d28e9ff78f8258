package l4

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// writes is the number of entries that the engine has written or deleted.
func (e *Engine) writes() uint64 {
	return e.managed.writes + e.pods.writes + e.frontends.writes + e.slots.writes
}

func audited(tb testing.TB, e *Engine) {
	tb.Helper()
	found, err := e.Audit()
	must(tb, err)
	if len(found) > 0 {
		tb.Errorf("audit: %v", found)
	}
}

func TestApplyOfAnEqualSnapshotWritesNothing(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	services := decisions()
	apply(t, e, services...)
	before := e.writes()
	if before == 0 {
		t.Fatal("the first Apply wrote nothing")
	}
	apply(t, e, services...)    // the same pointers
	apply(t, e, decisions()...) // equal values
	if n := e.writes() - before; n != 0 {
		t.Errorf("%d writes for equal Snapshots", n)
	}
	apply(t, e, services[1:]...)
	if e.writes() == before {
		t.Error("a removed service made no write: the counter does not count")
	}
	audited(t, e)
}

func TestApplyTouchesWhatChanged(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	a, b := workload("a", "10.1.0.1"), workload("b", "10.1.0.2")
	one := service("one", []string{"10.9.0.1"}, []uint16{80, 81, 82}, a, b)
	two := service("two", []string{"10.9.0.2"}, []uint16{80}, a, b)
	apply(t, e, one, two)
	before := e.writes()
	apply(t, e, one, service("two", []string{"10.9.0.2"}, []uint16{80}, a))
	// One slot written, one frontend flipped.
	if n := e.writes() - before; n != 2 {
		t.Errorf("%d writes, want 2", n)
	}
	audited(t, e)
	if used := usageOf(t, e, meshMapSlots).Used; used != 3 {
		t.Errorf("%d slots in use, want 3", used)
	}
}

func usageOf(tb testing.TB, e *Engine, name string) Usage {
	tb.Helper()
	all, err := e.Usage()
	must(tb, err)
	for _, u := range all {
		if u.Map == name {
			return u
		}
	}
	tb.Fatalf("no map %s in %v", name, all)
	return Usage{}
}

func TestPortsWithOneMappingShareASet(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	var ports []uint16
	for p := range uint16(50) {
		ports = append(ports, 8000+p)
	}
	svc := service("many", []string{"10.9.0.1", "fd00:9::1"}, ports)
	for i := range svc.Ports {
		svc.Ports[i].Target = 9000 + uint16(i) // a target port of its own, the same on all
	}
	for i := range 10_000 {
		w := workload("w"+addr4(i), addr4(i))
		svc.Endpoints = append(svc.Endpoints, intent.Endpoint{Workload: w})
	}
	apply(t, e, svc)
	u := usageOf(t, e, meshMapSlots)
	if u.Used != 10_000 {
		t.Errorf("%d slots for 50 ports of 10000 endpoints, want 10000", u.Used)
	}
	t.Logf("50 ports of 10000 endpoints: %d KiB of slots", uint64(u.Used)*u.Bytes/uint64(u.Limit)>>10)
	audited(t, e)
}

func addr4(i int) string {
	return strings.Join([]string{"10", itoa(1 + i>>16), itoa(i >> 8 & 255), itoa(i & 255)}, ".")
}

func TestCapacityIsCheckedBeforeTheFirstWrite(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{HidePeer: true, Limits: Limits{Managed: 1, Frontends: 4, Slots: 3}})
	a, b, other := workload("a", "10.1.0.1"), workload("b", "10.1.0.2"), workload("c", "10.1.0.3")
	apply(t, e, service("web", []string{"10.9.0.1"}, []uint16{80}, a, b))
	must(t, e.Enrol(p.Pod))
	before := e.writes()

	for _, c := range []struct {
		name string
		svc  *intent.Service
		want CapacityError
	}{
		// Two old slots and two new ones stand side by side.
		{"slots", service("web", []string{"10.9.0.1"}, []uint16{80}, a, other), CapacityError{Map: "slots", Need: 4, Have: 3}},
		{"frontends", service("web", []string{"10.9.0.1"}, []uint16{80, 81, 82, 83}, a, b), CapacityError{Map: "frontends", Need: 5, Have: 4}},
	} {
		err := e.Apply(context.Background(), intent.Snapshot{Services: []*intent.Service{c.svc}})
		var full CapacityError
		if !errors.As(err, &full) || full != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if e.writes() != before {
		t.Error("a refused Snapshot was written in part")
	}
	if a := p.dial(t, v4, addrPort("10.9.0.1:80")); a.Errno != 0 || a.Peer.Port() != 7001 {
		t.Errorf("the old state does not serve: %v, %v", a.Peer, a.Errno)
	}
	var full CapacityError
	if err := e.Enrol(n.pod(t, "default/other").Pod); !errors.As(err, &full) || full != (CapacityError{Map: "managed", Need: 2, Have: 1}) {
		t.Errorf("a second pod: %v", err)
	}
	audited(t, e)
}

func TestUnsupportedIsNamedAndNothingWritten(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	plain := service("plain", []string{"10.9.0.3"}, []uint16{80})
	route := &intent.Route{Service: plain.Key(), Backends: []intent.Backend{{Service: plain.Key()}}}
	for _, c := range []struct {
		s    intent.Snapshot
		want intent.UnsupportedError
	}{
		{intent.Snapshot{Policies: []*intent.Policy{{Name: "deny", Namespace: "default"}}}, intent.UnsupportedError{Resource: "policy default/deny", Field: "enforcement"}},
		{intent.Snapshot{Services: []*intent.Service{plain}, Routes: []*intent.Route{route}}, intent.UnsupportedError{Resource: "service default/plain", Field: "route without a waypoint"}},
	} {
		var got intent.UnsupportedError
		if err := e.Apply(context.Background(), c.s); !errors.As(err, &got) || got != c.want {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
	if e.writes() != 0 {
		t.Errorf("%d writes", e.writes())
	}
}

func TestApplyRefusesWhatMakesNoSense(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	bad := service("web", []string{"127.0.0.1"}, []uint16{80})
	err := e.Apply(context.Background(), intent.Snapshot{Services: []*intent.Service{bad}})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1: loopback") {
		t.Errorf("got %v", err)
	}
	web, twin := service("web", []string{"10.9.0.1"}, []uint16{80}), service("web", []string{"10.9.0.2"}, []uint16{80})
	bad = service("bad", []string{"10.9.0.3"}, []uint16{0})
	must(t, e.Apply(context.Background(), intent.Snapshot{}))
	for want, services := range map[string][]*intent.Service{
		"service default/web: declared twice": {web, twin},
		"port 0 cannot be declared":           {web, bad},
	} {
		err := e.Apply(context.Background(), intent.Snapshot{Services: services})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := e.Apply(ended, intent.Snapshot{Services: decisions()}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if e.writes() != 0 {
		t.Errorf("%d writes", e.writes())
	}
}

// The slots that programs read are exact, for 1000 random weight vectors.
func TestSlotsReadBackAreExact(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	r := rand.New(rand.NewPCG(5, 6))
	var services []*intent.Service
	wanted := map[string][]target{}
	for i := range 1000 {
		targets := randomTargets(r, 1+r.IntN(30))
		var ws []*intent.Workload
		for j := range targets {
			w := workload("w"+itoa(i)+"-"+itoa(j), addr4(j))
			w.Weight = targets[j].weight
			targets[j].addr = addrWords(w.Addresses[0])
			ws = append(ws, w)
		}
		svc := service10(i, ws)
		wanted[svc.Key()] = targets
		services = append(services, svc)
	}
	apply(t, e, services...)
	columns := map[uint32][]meshSlot{}
	must(t, e.slots.each(func(_ uint32, v meshSlot) {
		if v.Generation > 0 {
			columns[v.Generation] = append(columns[v.Generation], v)
		}
	}))
	for key, targets := range wanted {
		id := e.state.byName[key].sets[0].id
		if d := farthest(targets, columns[id.generation]); d.Cmp(tolerance) > 0 {
			t.Errorf("%s: off by %s", key, d.FloatString(15))
		}
	}
	if len(columns) != 1000 {
		t.Errorf("%d sets in the kernel, want 1000", len(columns))
	}
}

func TestAuditNamesEachDifference(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	if _, err := e.Audit(); err == nil {
		t.Error("an audit before the first Apply has nothing to compare with")
	}
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	audited(t, e)

	key := tcpKey(addr("10.9.0.1"), 80)
	slot := e.state.byName["default/own-port"].sets[0].id.set
	must(t, e.frontends.m.Delete(key))
	must(t, e.slots.m.Put(slot, meshSlot{}))
	must(t, e.managed.m.Put(uint64(12345), uint32(0)))
	found, err := e.Audit()
	must(t, err)
	got := map[string]bool{}
	for _, d := range found {
		got[d.Map+" "+d.Entry] = true
	}
	for _, want := range []string{"frontends 10.9.0.1:80/TCP", "slots slot " + itoa(int(slot)), "managed netns cookie 12345"} {
		if !got[want] {
			t.Errorf("audit does not name %q: %v", want, found)
		}
	}
	if len(found) != 3 {
		t.Errorf("%d differences, want 3: %v", len(found), found)
	}
}

// A map that fails in the middle leaves a state from which Apply goes on.
func TestApplyAfterAFailedWrite(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{Limits: Limits{Frontends: 8}})
	a, b := workload("a", "10.1.0.1"), workload("b", "10.1.0.2")
	last := service("web", []string{"10.9.0.1"}, []uint16{80}, a)
	apply(t, e, last)
	// Someone else fills the map, which the engine's own count cannot know.
	for i := range uint16(6) {
		k := tcpKey(addr("10.9.9.9"), 1+i)
		must(t, e.frontends.m.Put(k, seal(k, meshFrontend{})))
	}
	next := service("web", []string{"10.9.0.1"}, []uint16{80, 81}, b, a)
	err := e.Apply(context.Background(), intent.Snapshot{Services: []*intent.Service{next}})
	if err == nil || !strings.Contains(err.Error(), "write map frontends") {
		t.Fatalf("got %v, want the failed write", err)
	}
	apply(t, e, last) // which removes what is not its own
	audited(t, e)
	apply(t, e, next)
	audited(t, e)
	if used := usageOf(t, e, meshMapSlots).Used; used != 2 {
		t.Errorf("%d slots in use, want 2", used)
	}
}

// Rows of slots that lie scattered are said to be so.
func TestScatteredSlotsAreNamed(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{Limits: Limits{Slots: 4}})
	one := func(i int) *intent.Service {
		return service("s"+itoa(i), []string{"10.9.0." + itoa(i+1)}, []uint16{80}, workload("w"+itoa(i), addr4(i)))
	}
	apply(t, e, one(0), one(1), one(2), one(3))
	apply(t, e, one(1), one(3))
	two := service("two", []string{"10.9.0.9"}, []uint16{80}, workload("a", "10.1.0.1"), workload("b", "10.1.0.2"))
	err := e.Apply(context.Background(), intent.Snapshot{Services: []*intent.Service{one(1), one(3), two}})
	if want := (CapacityError{Map: "slots", Need: 2, Have: 1, InRow: true}); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	apply(t, e, one(3))
	apply(t, e, two)
	audited(t, e)
}

func TestEmptyMapsAreSmall(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	all, err := e.Usage()
	must(t, err)
	var sum uint64
	for _, u := range all {
		t.Logf("%-10s %7d KiB", u.Map, u.Bytes>>10)
		sum += u.Bytes
	}
	cpus, err := ebpf.PossibleCPU()
	must(t, err)
	if most := uint64(8_000_000 + 256*max(0, cpus-2)); sum == 0 || sum > most {
		t.Errorf("%d bytes on %d processors, want at most %d", sum, cpus, most)
	}
}

// What Limits says of the memory of an entry is what the kernel takes.
func TestEntriesTakeWhatIsSaid(t *testing.T) {
	n := newNode(t)
	e := n.open(t, Options{})
	bytes := func() map[string]uint64 {
		all, err := e.Usage()
		must(t, err)
		of := map[string]uint64{}
		for _, u := range all {
			of[u.Map] = u.Bytes
		}
		return of
	}
	const many = 200
	before := bytes()
	for i := range uint32(many) {
		k := tcpKey(addr(addr4(int(i))), 80)
		must(t, e.frontends.m.Put(k, seal(k, meshFrontend{})))
		must(t, e.names.m.Put(1+i, nameOf(1+i, k)))
		must(t, e.managed.m.Put(1<<40+uint64(i), uint32(0)))
		must(t, e.waypoints.m.Put(1<<40+uint64(i), uint32(0)))
	}
	after := bytes()
	if after[meshMapFrontends] == before[meshMapFrontends] {
		t.Skip("NOT RUN: this kernel reports what a map may take at most (before Linux 6.4)")
	}
	for name, each := range map[string]uint64{meshMapManaged: 72, meshMapFrontends: 112, meshMapNames: 96, meshMapWaypoints: 72} {
		if grew := after[name] - before[name]; grew != each*many {
			t.Errorf("map %s: %d bytes for each entry, %d are said", name, grew/many, each)
		}
	}
}
