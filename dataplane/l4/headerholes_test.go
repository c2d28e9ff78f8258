package l4

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/dataplane/intent"
)

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// keepSocket puts a socket into a collection whose program lets everything pass.
func keepSocket(fd int) error {
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("make a collection: %w", err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkMsg, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return fmt.Errorf("make a program: %w", err)
	}
	// Neither is closed: the socket would leave.
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: sockets.FD(), Program: prog, Attach: ebpf.AttachSkMsgVerdict,
	}); err != nil {
		return fmt.Errorf("attach a program: %w", err)
	}
	held.Lock()
	defer held.Unlock()
	held.sockets = append(held.sockets, sockets)
	return sockets.Put(uint32(0), uint32(fd))
}

// A connection on which the client never says anything has no header: where the
// server should speak first, it waits for the client. It is counted when it ends.
func TestHeadersOfSilentConnections(t *testing.T) {
	for _, codec := range headerCodecs {
		t.Run(string(codec), func(t *testing.T) {
			h := newHeaded(t, codec, Options{})
			client := exitsOf(t, h.client, func() {
				fds := h.from.do(t, call{Op: "silent", Telling: telling{N: 30, To: h.asked}}).FDs
				for i, fd := range fds {
					if i%2 == 0 { // the end of what never began: the waypoint says what it saw
						h.from.do(t, call{Op: "half close", FD: fd})
						if n := h.client.waiting(t); n != len(fds)-i-1 {
							t.Errorf("%d sockets in unsent after %d ended", n, i+1)
						}
						if a := h.from.do(t, call{Op: "line", FD: fd}); !strings.HasPrefix(a.Line, "none:") {
							t.Errorf("the waypoint saw %q, %v", a.Line, a.Errno)
						}
					}
					h.from.do(t, call{Op: "close", FD: fd})
				}
			})
			want := map[intent.Exit]uint64{intent.RedirectWaypoint: 30, intent.Exit(HandoffSilent): 30}
			if !maps.Equal(client, want) || h.client.waiting(t) != 0 {
				t.Errorf("counted %v, want %v; %d wait", client, want, h.client.waiting(t))
			}
		})
	}
}

// A send that waits for the connection has begun before anybody could put a header in
// front of it: it is counted, and the waypoint refuses it. No other address is ever
// told.
func TestHeadersOfSendsThatBeganBefore(t *testing.T) {
	for _, codec := range headerCodecs {
		t.Run(string(codec), func(t *testing.T) {
			h := newHeaded(t, codec, Options{})
			h.lossy(t, h.port)
			const n = 90
			var got told
			client := exitsOf(t, h.client, func() {
				got = h.tell(t, telling{N: n, Threads: n, Open: "not waited for", Shapes: []string{"1 byte", "sendmsg", "MSG_MORE"}})
			})
			early := client[intent.Exit(HandoffEarly)]
			if got.Right+got.Bare != n || got.Bare == 0 || uint64(got.Bare) != early {
				t.Errorf("%+v, counted %v", got, client)
			}
			if header := client[intent.Exit(HandoffHeader)]; header+early != n {
				t.Errorf("counted %v of %d", client, n)
			}
			t.Logf("%d of %d without a header", got.Bare, n)
		})
	}
}

// A connection for which there is no room is counted, and has no header.
func TestHeadersWithoutRoom(t *testing.T) {
	h := newHeaded(t, intent.ProxyV2, Options{Limits: Limits{Unsent: 4}})
	fds := h.from.do(t, call{Op: "silent", Telling: telling{N: 4, To: h.asked}}).FDs
	var got told
	client := exitsOf(t, h.client, func() { got = h.tell(t, telling{N: 20}) })
	if got.Bare != 20 || client[intent.Exit(HandoffUnwritten)] != 20 {
		t.Errorf("%+v, counted %v", got, client)
	}
	h.from.do(t, call{Op: "write", FD: fds[0], N: 1}) // makes room
	if got := h.tell(t, telling{N: 20}); got.Right != 20 {
		t.Errorf("with room: %+v", got)
	}
}

// takesSockets is another mesh on the cgroup that keeps each client socket in a
// collection of its own, with a program for its sends: the kernel lets a socket have one.
// Its program runs before the engine's.
func takesSockets(t *testing.T, cgroup *os.File) (stop func()) {
	t.Helper()
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockHash, KeySize: 8, ValueSize: 8, MaxEntries: 4096})
	must(t, err)
	sends, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkMsg, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	must(t, link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: sockets.FD(), Program: sends, Attach: ebpf.AttachSkMsgVerdict,
	}))
	const activeEstablished = 4 // BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
	taker, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "takes_sockets", Type: ebpf.SockOps, AttachType: ebpf.AttachCGroupSockOps, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R0, asm.R6, 0, asm.Word),
			asm.JNE.Imm(asm.R0, activeEstablished, "end"),
			asm.FnGetSocketCookie.Call(),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.LoadMapPtr(asm.R2, sockets.FD()),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnSockHashUpdate.Call(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("end"),
			asm.Return(),
		},
	})
	must(t, err)
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: taker, Attach: ebpf.AttachCGroupSockOps})
	must(t, err)
	stop = sync.OnceFunc(func() {
		for _, c := range []io.Closer{l, taker, sends, sockets} {
			c.Close()
		}
	})
	t.Cleanup(stop)
	return stop
}

// A socket that another mesh has put into a collection of its own cannot be in unsent:
// that is counted, and nothing is told. Kmesh's connections had no metadata then.
func TestHeadersBesideAnotherCollection(t *testing.T) {
	const n = 60
	for _, codec := range headerCodecs {
		t.Run(string(codec), func(t *testing.T) {
			h := newHeaded(t, codec, Options{})
			stop := takesSockets(t, h.from.Cgroup)
			var got told
			client := exitsOf(t, h.client, func() { got = h.tell(t, telling{N: n, Threads: 4, Shapes: []string{"1 byte", "writev"}}) })
			// Some reads give up: the other mesh's sockets stay where they are.
			want := map[intent.Exit]uint64{intent.RedirectWaypoint: n, intent.Exit(HandoffUnwritten): n}
			if got.Bare == 0 || got.Bare+got.Again != n || !maps.Equal(client, want) {
				t.Errorf("%+v, counted %v, want %v", got, client, want)
			}
			stop()
			if got := h.tell(t, telling{N: n}); got.Right != n {
				t.Errorf("without it: %+v", got)
			}
		})
	}
}

// A socket that connects again, to another address, tells that one.
func TestHeadersOfSocketsThatConnectAgain(t *testing.T) {
	h := newHeaded(t, intent.KmeshTLV, Options{})
	fd := h.from.do(t, call{Op: "silent", Telling: telling{N: 1, To: h.asked4[:1]}}).FDs[0]
	for i := range 3 {
		h.from.do(t, call{Op: "disconnect", FD: fd})
		if a := h.from.do(t, call{Op: "connect", FD: fd, Domain: v4, To: h.asked4[i+1]}); a.Errno != 0 {
			t.Fatalf("connect again: %v", a.Errno)
		}
	}
	h.from.do(t, call{Op: "write", FD: fd, N: 5})
	h.from.do(t, call{Op: "half close", FD: fd})
	want := fmt.Sprintf("%x 5 ", goldenHeader(h.codec, addrPort("1.1.1.1:1"), h.asked4[3]))
	if a := h.from.do(t, call{Op: "line", FD: fd}); !strings.HasPrefix(a.Line, want) {
		t.Errorf("%q, want %q", a.Line, want)
	}
}

// A new process of the engine takes over what waits: connections that were
// established before it, and while there is none, have their headers.
func TestHeadersWhenTheEngineIsReplaced(t *testing.T) {
	h := newHeaded(t, intent.ProxyV2, Options{})
	must(t, h.client.Close())
	host := h.clients.pinned(bpffs(t))
	first := mustOpen(t, host, Options{})
	must(t, first.Apply(context.Background(), intent.Snapshot{Services: h.servicesOfWorld}))
	must(t, first.Enrol(h.from.Pod))
	before := h.from.do(t, call{Op: "silent", Telling: telling{N: 1, To: h.asked4[:1]}}).FDs[0]
	must(t, first.Close())
	if got := h.tell(t, telling{N: 60}); got.Right != 60 {
		t.Errorf("without a process: %+v", got)
	}
	second := mustOpen(t, host, Options{})
	if !second.hasHook(meshProgMeshHeader) {
		t.Error("the programs were not taken over")
	}
	h.from.do(t, call{Op: "write", FD: before, N: 5})
	h.from.do(t, call{Op: "half close", FD: before})
	if a := h.from.do(t, call{Op: "line", FD: before}); strings.HasPrefix(a.Line, "none:") || a.Line == "" {
		t.Errorf("established before: %q, %v", a.Line, a.Errno)
	}
	must(t, second.Apply(context.Background(), intent.Snapshot{Services: h.servicesOfWorld}))
	if got := h.tell(t, telling{N: 60}); got.Right != 60 {
		t.Errorf("after the take-over: %+v", got)
	}
	must(t, second.Close())
	_, err := Open(host, Options{Limits: Limits{Unsent: 5}})
	if err == nil || !containsAll(err.Error(), meshMapUnsent, "5") {
		t.Errorf("another limit: %v", err)
	}
	third := mustOpen(t, host, Options{})
	must(t, third.Remove())
}

// A waypoint that does not listen for headers refuses by itself, and that is counted.
func TestHeadersToNobody(t *testing.T) {
	h := newHeaded(t, intent.KmeshTLV, Options{})
	way := waypointOf(h.way)
	way.Codec, way.Port = intent.ProxyV2, intent.ProxyV2.Port()
	services, asked4, asked6 := vips(many, way)
	must(t, h.client.Apply(context.Background(), intent.Snapshot{Services: services}))
	var got told
	client := exitsOf(t, h.client, func() {
		got = h.tell(t, telling{N: 40, Shapes: []string{"1 byte"}, To: append(asked4[:20:20], asked6[:20]...)})
	})
	want := map[intent.Exit]uint64{intent.RedirectWaypoint: 40, intent.Exit(HandoffUnreached): 40}
	if got.Failed != 40 || !maps.Equal(client, want) {
		t.Errorf("%+v, counted %v, want %v", got, client, want)
	}
}
