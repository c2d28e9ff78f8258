package probe

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// rewriter is the smallest mesh: programs on the parent cgroup that lead the VIPs
// to the server's own addresses and port.
func (g *ground) rewriter() {
	g.tb.Helper()
	ip4, ip6 := int16(4), int16(8) // offsets in struct bpf_sock_addr
	v4, v6 := words(vip4), words(vip6)
	r4, r6 := words(server4), words(server6)
	mapped4 := words(mapped(vip4))
	to4, to6 := words(mapped(server4)), r6
	g.attach(ebpf.AttachCGroupInet4Connect, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, ip4, asm.Word),
		asm.JNE.Imm32(asm.R2, v4[0], "pass"),
	}, store(ip4, r4))
	g.attach(ebpf.AttachCGroupInet6Connect, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, ip6+12, asm.Word),
		asm.JNE.Imm32(asm.R2, v6[3], "pass"),
	}, store(ip6, to6))
	g.attach(ebpf.AttachCGroupInet6Connect, asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, ip6+12, asm.Word),
		asm.JNE.Imm32(asm.R2, mapped4[3], "pass"),
	}, store(ip6, to4))
}

// attach makes a program of a condition that jumps to "pass", and of what is
// done when it holds.
func (g *ground) attach(at ebpf.AttachType, when, then asm.Instructions) {
	g.tb.Helper()
	const userPort = 24
	var insns asm.Instructions
	insns = append(insns, when...)
	insns = append(insns, then...)
	insns = append(insns,
		asm.Mov.Imm32(asm.R2, port(realPort)),
		asm.StoreMem(asm.R1, userPort, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"),
		asm.Return(),
	)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "test_rewrite", Type: ebpf.CGroupSockAddr, AttachType: at, License: "GPL", Instructions: insns,
	})
	must(g.tb, err)
	g.tb.Cleanup(func() { prog.Close() })
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(g.parent.Fd()), Program: prog, Attach: at})
	must(g.tb, err)
	g.tb.Cleanup(func() { l.Close() })
}

func store(off int16, words []int32) asm.Instructions {
	var insns asm.Instructions
	for i, w := range words {
		insns = append(insns,
			asm.Mov.Imm32(asm.R2, w),
			asm.StoreMem(asm.R1, off+int16(4*i), asm.R2, asm.Word))
	}
	return insns
}

// words are an address as a program compares it: network order in host words.
func words(a netip.Addr) []int32 {
	var w []int32
	for b := a.AsSlice(); len(b) > 0; b = b[4:] {
		w = append(w, int32(binary.NativeEndian.Uint32(b)))
	}
	return w
}

func port(p uint16) int32 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return int32(binary.NativeEndian.Uint16(b[:]))
}

func addressOf(sa *unix.RawSockaddr) uintptr { return uintptr(unsafe.Pointer(sa)) }

func TestWords(t *testing.T) {
	if got := words(netip.MustParseAddr("1.2.3.4")); binary.NativeEndian.Uint32([]byte{1, 2, 3, 4}) != uint32(got[0]) {
		t.Errorf("got %x", got)
	}
}
