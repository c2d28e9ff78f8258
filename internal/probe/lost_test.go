package probe

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
)

// never is longer than a test: a reader that does not come.
const never = time.Hour

// A ring that is too small for what happens between two reads loses events, and
// the ledger says so.
func TestLostEvents(t *testing.T) {
	const n = 100
	g := newGround(t)
	g.listen(realPort)
	p := g.open(Options{RingBytes: os.Getpagesize(), Poll: never})
	g.run(times(n, visit(at(server4, realPort))))
	l, err := p.Ledger(t.Context())
	must(t, err)
	if l.Lost.Total() == 0 || len(l.Lost.Ring) == 0 || !strings.Contains(l.Lost.String(), "ring full") {
		t.Errorf("%s; want events lost", l.Lost)
	}
	// Every attempt asks once and begins once.
	seen := map[Kind]uint64{}
	for _, line := range l.Lines {
		if line.AskedAt != 0 {
			seen[Asked]++
		}
		if line.SynSentAt != 0 {
			seen[SynSent]++
		}
	}
	for _, k := range []Kind{Asked, SynSent} {
		if seen[k]+l.Lost.Ring[k] != n || l.Lost.Ring[k] == 0 {
			t.Errorf("%d %s events seen and %d lost, want %d: a loss was not counted", seen[k], k, l.Lost.Ring[k], n)
		}
	}
}

// The default ring does not lose a burst, although nobody reads it meanwhile.
func TestBurst(t *testing.T) {
	const n, processes = 2000, 4
	g := newGround(t)
	g.rewriter()
	g.listen(realPort)
	p := g.open(Options{Poll: never})
	var clients []*process
	for range processes {
		clients = append(clients, g.start(times(n, visit(at(vip4, vipPort)))))
	}
	for _, c := range clients {
		c.finish()
	}
	l := settle(t, p)
	lossless(t, l)
	active, passive := linesOf(l, "client", RoleActive), linesOf(l, "server", RolePassive)
	if len(active) != n*processes || len(passive) != n*processes {
		t.Errorf("%d and %d lines, want %d each", len(active), len(passive), n*processes)
	}
	for _, line := range active {
		if !ended(line) || len(line.Wire) != 2 || line.Peer != at(server4, realPort) {
			t.Fatalf("line %+v", line)
		}
	}
	same(t, l.Leaks("client", at(vip4, vipPort)), nil)
}

func TestLostString(t *testing.T) {
	l := Lost{Ring: map[Kind]uint64{Closed: 2, Asked: 1}, Missed: 3, Wire: 4}
	want := "lost 1 asked events (ring full), 2 closed events (ring full), 3 program runs, 4 packets (wire table full)"
	if l.String() != want || l.Total() != 10 {
		t.Errorf("got %q, %d", l, l.Total())
	}
}

func TestClosed(t *testing.T) {
	g := newGround(t)
	p := g.open(Options{})
	must(t, p.Close())
	must(t, p.Close())
	if _, err := p.Ledger(t.Context()); err == nil {
		t.Error("a closed probe has a ledger")
	}
	if err := p.Add(g.clientTarget()); err == nil {
		t.Error("a closed probe watches")
	}
}

// A kernel that does not count what it leaves out lets nothing be said.
func TestUncountedIsNotWhole(t *testing.T) {
	if l := (Lost{}); !l.Whole() || l.String() != "lost nothing" {
		t.Errorf("%s", l)
	}
	l := Lost{Uncounted: []string{"kprobe/tcp_set_state"}}
	if l.Whole() || l.Total() != 0 || !strings.Contains(l.String(), "kprobe/tcp_set_state it does not count") {
		t.Errorf("%s", l)
	}
	if l := (Lost{Missed: 1}); l.Whole() {
		t.Errorf("%s", l)
	}
}

// A member is found at any depth, and only under its name.
func TestHasMember(t *testing.T) {
	deep := &btf.Struct{Members: []btf.Member{{Name: "a", Type: &btf.Union{Members: []btf.Member{
		{Name: "b", Type: &btf.Struct{Members: []btf.Member{{Name: "missed", Type: &btf.Int{}}}}},
	}}}}}
	if !hasMember(deep, "missed") || hasMember(deep, "counted") {
		t.Error("not found, or what is not there is")
	}
}

// Chosen providers are the only ones of their kind; the others keep theirs.
func TestChooseProviders(t *testing.T) {
	all, err := choose(ladders(Options{}), []string{"raw_tp/inet_sock_set_state"})
	if err != nil || len(all[0].sensors) < 2 || len(all[2].sensors) != 1 || all[2].sensors[0].Name() != "raw_tp/inet_sock_set_state" {
		t.Errorf("%v, %v", all, err)
	}
	if err := CheckProviders([]string{"eyes"}); err == nil || !strings.Contains(err.Error(), "provider eyes: unknown") {
		t.Errorf("got %v", err)
	}
}
