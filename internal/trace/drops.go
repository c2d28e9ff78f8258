package trace

import (
	"fmt"
	"net/netip"
	"sort"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Drop is packets of one connection that the kernel threw away at one place.
type Drop struct {
	Pod string `json:"pod"`
	// Reason is the kernel's own (enum skb_drop_reason), without its prefix.
	Reason string `json:"reason"`
	// Function is where it was done; empty where the kernel hides that.
	Function string `json:"function,omitempty"`
	Protocol uint16 `json:"protocol"`
	// Src and Dst are the packet's.
	Src netip.AddrPort `json:"src"`
	Dst netip.AddrPort `json:"dst"`
	// Cookie is that of the packet's socket; 0: it had none, or nobody has asked
	// for it.
	Cookie uint64 `json:"cookie,omitempty"`
}

// DropCount is a Drop and how often it was seen.
type DropCount struct {
	Drop
	Packets int `json:"packets"`
	// First is when, CLOCK_MONOTONIC, in nanoseconds.
	First int64 `json:"first_ns"`
}

// namer knows the kernel's names for reasons and places.
type namer struct {
	reasons map[uint32]string
	symbols []symbol
}

const reasonPrefix = "SKB_DROP_REASON_"

func newNamer() (*namer, error) {
	n := &namer{reasons: map[uint32]string{}}
	types, err := kernel.Types().Kernel()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types: %w", err)
	}
	var reasons *btf.Enum
	if err := types.TypeByName("skb_drop_reason", &reasons); err == nil {
		for _, v := range reasons.Values {
			n.reasons[uint32(v.Value)] = strings.TrimPrefix(v.Name, reasonPrefix)
		}
	}
	if n.symbols, err = symbols(); err != nil {
		return nil, err
	}
	return n, nil
}

// reason names a reason. Subsystems number their own, with their number in the
// upper half (Linux 6.4).
func (n *namer) reason(v uint32) string {
	if name, ok := n.reasons[v]; ok {
		return name
	}
	if len(n.reasons) == 0 {
		return "unknown (this kernel gives none)"
	}
	return fmt.Sprintf("%#x", v)
}

// function is the one that holds an address, or "".
func (n *namer) function(address uint64) string {
	if len(n.symbols) == 0 || n.symbols[len(n.symbols)-1].address == 0 {
		return ""
	}
	i := sort.Search(len(n.symbols), func(i int) bool { return n.symbols[i].address > address })
	if i == 0 {
		return ""
	}
	return n.symbols[i-1].name
}

// drops counts what is alike, in the order in which it was first seen.
type drops struct {
	at   map[Drop]int
	list []DropCount
}

func (d *drops) add(x Drop, at int64) {
	if d.at == nil {
		d.at = map[Drop]int{}
	}
	i, ok := d.at[x]
	if !ok {
		i = len(d.list)
		d.at[x] = i
		d.list = append(d.list, DropCount{Drop: x, First: at})
	}
	d.list[i].Packets++
}

// take returns what was counted, and begins anew.
func (d *drops) take() []DropCount {
	list := d.list
	*d = drops{}
	return list
}
