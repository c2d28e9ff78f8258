package l4

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/internal/kernel"
)

// foreign puts a program of someone else on a cgroup, at one hook.
func foreign(t *testing.T, cgroup *os.File, name string, attach ebpf.AttachType, body ...asm.Instruction) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: name, Type: ebpf.CGroupSockAddr, AttachType: attach, License: "GPL",
		Instructions: append(slices.Clone(body), asm.Mov.Imm(asm.R0, 1), asm.Return()),
	})
	must(t, err)
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: prog, Attach: attach})
	must(t, err)
	t.Cleanup(func() { l.Close(); prog.Close() })
}

func observes(t *testing.T, cgroup *os.File) {
	t.Helper()
	for _, attach := range []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect} {
		foreign(t, cgroup, "observes", attach, asm.LoadMem(asm.R2, asm.R1, 0, asm.Word))
	}
}

// rewrites sends all IPv4 connections to 10.9.0.3.
func rewrites(t *testing.T, cgroup *os.File) {
	t.Helper()
	foreign(t, cgroup, "rewrites", ebpf.AttachCGroupInet4Connect,
		asm.LoadImm(asm.R2, int64(addrWords(addr("10.9.0.3"))[3]), asm.DWord),
		asm.StoreMem(asm.R1, userIP4, asm.R2, asm.Word))
}

// rewrites6 sends all IPv6 connections elsewhere.
func rewrites6(t *testing.T, cgroup *os.File) {
	t.Helper()
	foreign(t, cgroup, "rewrites6", ebpf.AttachCGroupInet6Connect,
		asm.StoreImm(asm.R1, userIP6+12, 7, asm.Word))
}

// nested is a node whose cgroup lies below another.
func nested(t *testing.T) (outer *os.File, n *node) {
	t.Helper()
	outer = newNode(t).cgroup
	return outer, &node{cgroup: makeCgroup(t, filepath.Join(outer.Name(), "node"))}
}

func named(all []Neighbour, program string) []Neighbour {
	return slices.DeleteFunc(slices.Clone(all), func(n Neighbour) bool { return n.Program != program })
}

// Beside what observes the engine works, and names it. What rewrites is found by the
// self-test, wherever it is, and refused by name, unless by force.
func TestNeighbours(t *testing.T) {
	for _, place := range []string{"parent", "node", "child"} {
		for name, put := range map[string]func(*testing.T, *os.File){
			"observes": observes, "rewrites": rewrites, "rewrites6": rewrites6,
		} {
			t.Run(name+"/"+place, func(t *testing.T) {
				testNeighbour(t, place, name, put)
			})
		}
	}
}

func testNeighbour(t *testing.T, place, name string, put func(*testing.T, *os.File)) {
	outer, n := nested(t)
	p := n.pod(t, "default/client")
	put(t, map[string]*os.File{"parent": outer, "node": n.cgroup, "child": p.Cgroup}[place])
	// enter opens and enrols, and returns the error of that of the two which
	// meets the program first.
	enter := func(o Options) (*Engine, error) {
		e, err := Open(n.host(), o)
		if err != nil {
			if place == "child" {
				t.Fatalf("the program of one pod stops the node: %v", err)
			}
			return nil, err
		}
		t.Cleanup(func() { must(t, e.Close()) })
		apply(t, e, decisions()...)
		return e, e.Enrol(p.Pod)
	}
	e, err := enter(Options{})
	if name == "observes" {
		must(t, err)
		must(t, connected(t, p, "10.9.0.1:80", "10.9.0.1:80")) // by getpeername
	} else {
		var rewritten RewrittenError
		if !errors.As(err, &rewritten) || len(named(rewritten.Programs, name)) == 0 || !strings.Contains(err.Error(), name) {
			t.Fatalf("got %v, want a refusal that names the program", err)
		}
		if e != nil && len(e.enrolled) > 0 {
			t.Error("the pod is managed all the same")
		}
		if e != nil {
			must(t, e.Close())
		}
		e, err = enter(Options{Force: true})
		must(t, err)
	}
	found := named(e.Neighbours(), name)
	if len(found) == 0 {
		t.Fatalf("%s is not in %v", name, e.Neighbours())
	}
	for _, f := range found {
		if f.Before != (place != "parent") || (f.Pod == p.Name) != (place == "child") {
			t.Errorf("%s of the %s is listed as %v", name, place, f)
		}
	}
	must(t, e.Leave(p.Pod))
	if left := named(e.Neighbours(), name); place == "child" && len(left) > 0 {
		t.Errorf("a pod has left, its program is listed: %v", left)
	}
}

// The control: nobody is there, and nobody is named. Who comes later is.
func TestNeighboursAreLookedForAgain(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	if all := e.Neighbours(); len(all) > 0 {
		t.Errorf("neighbours %v on a cgroup of our own", all)
	}
	observes(t, n.cgroup)
	if all := named(e.Neighbours(), "observes"); len(all) != 2 || all[0].Before {
		t.Errorf("neighbours %v", e.Neighbours())
	}
}

// What a process has left that was killed in the middle of its test is found and removed,
// also where this one would have taken the same name.
func TestSelfTestAfterOneThatWasKilled(t *testing.T) {
	n := newNode(t)
	observes(t, n.cgroup)
	for _, left := range []string{scratchPrefix + "1-1", fmt.Sprintf("%s%d-%d", scratchPrefix, os.Getpid(), scratches.Load()+1)} {
		must(t, os.Mkdir(filepath.Join(n.cgroup.Name(), left), 0o755))
	}
	e := n.open(t, Options{})
	if len(named(e.Neighbours(), "observes")) == 0 {
		t.Error("nobody is there: no self-test was made")
	}
	left, err := filepath.Glob(filepath.Join(n.cgroup.Name(), scratchPrefix+"*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A connection of a test belongs to the cgroup that it is made in, and to no other.
func TestDialIn(t *testing.T) {
	n := newNode(t)
	ns, err := kernel.NewNetns()
	must(t, err)
	defer ns.Close()
	ownAddresses(t, ns)
	listen(t, ns)
	other := makeCgroup(t, filepath.Join(n.cgroup.Name(), "other"))
	mine := makeCgroup(t, filepath.Join(n.cgroup.Name(), "mine"))
	rewrites(t, mine)
	for cgroup, want := range map[*os.File]string{mine: "10.9.0.3:80", other: "10.9.0.1:80"} {
		for range 20 {
			must(t, kernel.InNetns(ns, func() error {
				got, errno, err := kernel.DialIn(cgroup, 1, addrPort("10.9.0.1:80"))
				if err == nil && errno != 0 {
					err = errno
				}
				if err == nil && got.String() != want {
					t.Errorf("from %s: %v, want %s", cgroup.Name(), got, want)
				}
				return err
			}))
		}
	}
}
