package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// zone is a name server whose records may change.
type zone struct {
	addr string
	mu   sync.Mutex
	// records are zone file lines by "NAME TYPE"; code goes with each answer.
	records map[string][]string
	code    int
	cut     bool // answers by UDP are cut off
	asked   map[string]int
}

func serve(t *testing.T) *zone {
	t.Helper()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	must(t, err)
	z := &zone{addr: udp.LocalAddr().String(), records: map[string][]string{}, asked: map[string]int{}}
	for _, s := range []*dns.Server{{PacketConn: udp, Handler: z}, {Listener: tcp, Handler: z}} {
		started, done := make(chan struct{}), make(chan error, 1)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { done <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { must(t, s.Shutdown()); must(t, <-done) })
	}
	return z
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	key := q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
	z.asked[key]++
	m := new(dns.Msg).SetReply(q)
	m.Rcode = z.code
	for _, line := range z.records[key] {
		rr, err := dns.NewRR(line)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	if _, udp := w.LocalAddr().(*net.UDPAddr); udp && z.cut {
		m.Answer, m.Truncated = nil, true
	}
	_ = w.WriteMsg(m) // whoever has gone asks again
}

// set replaces all that is known.
func (z *zone) set(code int, lines ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.code, z.records = code, map[string][]string{}
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			panic(err)
		}
		kinds := []uint16{rr.Header().Rrtype}
		if rr.Header().Rrtype == dns.TypeCNAME {
			kinds = []uint16{dns.TypeA, dns.TypeAAAA}
		}
		for _, kind := range kinds {
			key := "db.example.com. " + dns.TypeToString[kind]
			z.records[key] = append(z.records[key], line)
		}
	}
}

type told struct {
	name string
	Answer
}

// run resolves until the test ends.
func run(t *testing.T, c Config, names ...string) (*Resolver, <-chan told) {
	t.Helper()
	c.Least, c.Most = 5*time.Millisecond, 50*time.Millisecond
	r := New(c)
	r.Want(names)
	ctx, cancel := context.WithCancel(context.Background())
	all, done := make(chan told, 1000), make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx, func(name string, a Answer) { all <- told{name, a} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r, all
}

// until waits for an answer that is written so.
func until(t *testing.T, all <-chan told, want string) {
	t.Helper()
	late := time.After(30 * time.Second)
	last := "nothing"
	for {
		select {
		case a := <-all:
			if last = write(a); last == want {
				return
			}
		case <-late:
			t.Fatalf("never: %q; the last is %q", want, last)
		}
	}
}

func write(a told) string {
	var all []string
	for _, addr := range a.Addresses {
		all = append(all, addr.String())
	}
	text := a.name + ": " + strings.Join(all, " ")
	if a.Err != nil {
		text += " | " + a.Err.Error()
	}
	return text
}

const name = "db.example.com"

func TestResolvesAgain(t *testing.T) {
	z := serve(t)
	z.set(0, name+". 1 IN A 10.0.0.2", name+". 1 IN A 10.0.0.1", name+". 1 IN A 10.0.0.1", name+". 0 IN AAAA fd00::1")
	r, all := run(t, Config{Servers: []string{z.addr}}, name)
	until(t, all, name+": 10.0.0.1 10.0.0.2 fd00::1")
	z.set(0, name+". 1 IN A 10.0.0.3")
	until(t, all, name+": 10.0.0.3")
	// Failures of each kind keep the last answer, and are named. That there is nothing is
	// an answer, which counts when it still holds after its time.
	server := "name server " + z.addr
	for _, c := range []struct {
		code int
		want string
		none bool
	}{
		{dns.RcodeServerFailure, server + " answers SERVFAIL", false}, {dns.RcodeRefused, server + " answers REFUSED", false},
		{dns.RcodeNameError, "there is no such name", true}, {dns.RcodeSuccess, "it has neither an A nor an AAAA record", true},
	} {
		z.set(c.code)
		until(t, all, name+": 10.0.0.3 | "+c.want)
		if c.none {
			until(t, all, name+":  | "+c.want)
		}
		z.set(0, name+". 1 IN A 10.0.0.3")
		until(t, all, name+": 10.0.0.3")
	}
	z.set(0, name+". 1 IN AAAA fd00::9")
	until(t, all, name+": fd00::9")
	r.Want([]string{"other.example.com"})
	until(t, all, "other.example.com:  | it has neither an A nor an AAAA record")
}

func TestAliases(t *testing.T) {
	z := serve(t)
	z.set(0, "b.example.com. 60 IN A 10.0.0.1") // not what is asked for
	z.mu.Lock()
	z.records[name+". A"] = []string{
		"c.example.com. 60 IN A 10.0.0.5", "B.example.com. 60 IN CNAME c.example.com.",
		"DB.example.com. 60 IN CNAME b.example.com.", "stray.example.com. 60 IN A 10.0.0.6",
	}
	z.mu.Unlock()
	_, all := run(t, Config{Servers: []string{z.addr}}, name)
	until(t, all, name+": 10.0.0.5")
}

func TestTruncatedComesByTCP(t *testing.T) {
	z := serve(t)
	var lines, want []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf("%s. 60 IN A 10.0.1.%d", name, i))
		want = append(want, fmt.Sprintf("10.0.1.%d", i))
	}
	z.set(0, lines...)
	z.mu.Lock()
	z.cut = true
	z.mu.Unlock()
	_, all := run(t, Config{Servers: []string{z.addr}}, name)
	until(t, all, name+": "+strings.Join(want, " "))
}

func TestNextServer(t *testing.T) {
	bad, good := serve(t), serve(t)
	bad.set(dns.RcodeServerFailure)
	good.set(0, name+". 60 IN A 10.0.0.1")
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // never answers
	must(t, err)
	defer silent.Close()
	_, all := run(t, Config{Servers: []string{silent.LocalAddr().String(), bad.addr, good.addr}, Timeout: 50 * time.Millisecond}, name)
	until(t, all, name+": 10.0.0.1")
	_, all = run(t, Config{}, name)
	until(t, all, name+":  | no name server is configured")
	_, all = run(t, Config{Servers: []string{good.addr}}, strings.Repeat("x", 300))
	until(t, all, strings.Repeat("x", 300)+":  | it is not a domain name")
}

// How long it is believed that there is nothing, before it counts.
func TestNothingCountsAfterItsTime(t *testing.T) {
	r := New(Config{})
	e := r.newEntry()
	at := netip.MustParseAddr("10.0.0.1")
	had := [2]family{{addrs: []netip.Addr{at}}, {none: true, ttl: time.Minute}}
	none, failed := family{none: true, ttl: time.Minute, err: errors.New("none")}, family{err: errors.New("away")}
	learn := func(found [2]family) int {
		a, _ := r.learn(e, found, 0, errors.Join(found[0].err, found[1].err))
		return len(a.Addresses)
	}
	learn(had)
	for range 2 {
		if learn([2]family{none, none}) != 1 {
			t.Error("an answer counts before its time is over")
		}
	}
	if left := time.Until(e.until); left < time.Minute-5*time.Second || left > time.Minute {
		t.Errorf("it counts in %s, want a minute", left)
	}
	e.until = time.Now() // it has held
	if learn([2]family{failed, failed}) != 1 || learn([2]family{none, failed}) != 1 {
		t.Error("a failure counts as an answer")
	}
	if learn([2]family{none, none}) != 0 {
		t.Error("the addresses stay for ever")
	}
	learn(had)
	if learn([2]family{none, none}) != 1 {
		t.Error("what held before counts after the name was there again")
	}
}

// TTLs are kept, within the bounds.
func TestKeeps(t *testing.T) {
	c := Config{}.withDefaults()
	r := New(c)
	for ttl, want := range map[time.Duration]time.Duration{
		0: time.Second, 30 * time.Second: 30 * time.Second, time.Hour: 5 * time.Minute,
	} {
		e := r.newEntry()
		before := time.Now()
		r.learn(e, [2]family{{addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}, ttl, nil)
		if left := e.next.Sub(before); left < want || left > want+time.Second/2 {
			t.Errorf("TTL %s: asked again after %s, want %s", ttl, left, want)
		}
	}
}
