package ambient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Ports and marks of Istio's in-pod redirection, as its CNI agent and ztunnel
// know them.
const (
	OutboundPort  = 15001
	PlaintextPort = 15006
	HBONEPort     = 15008
	dnsPort       = 15053

	// ProxyMark is on the proxy's own sockets, so that they are left alone.
	ProxyMark = 0x539
	// replyMark is the connection mark by which replies to a client's own address
	// find the proxy again.
	replyMark = 0x111
	markMask  = 0xfff
)

// hostProbe is the address from which a kubelet's probes come.
var hostProbe = netip.MustParseAddr("169.254.7.127")

var localhost = netip.MustParseAddr("127.0.0.1")

// Capture redirects the TCP of a pod to its node proxy: Istio's in-pod rules in
// their nftables form (tables istio-ambient-nat, -mangle and -raw), and the route
// for replies to addresses that are not the pod's. Rules of an earlier call are
// replaced. They end with the namespace, which stays the caller's.
func Capture(ns *os.File) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	// An earlier table is made when there is none, so that it can be deleted.
	for _, t := range tables() {
		conn.AddTable(t.table())
		conn.DelTable(t.table())
		t.add(conn)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write the in-pod rules: %w", err)
	}
	if err := routeReplies(ns); err != nil {
		return fmt.Errorf("route replies to the proxy: %w", err)
	}
	return nil
}

// Release takes the rules of Capture away; the route stays, and nothing that it
// could apply to.
func Release(ns *os.File) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range tables() {
		conn.DelTable(t.table())
	}
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the in-pod rules: %w", err)
	}
	return nil
}

// rule is what one rule looks at and does.
type rule = []expr.Any

// ruleset is one table with its two hooks; each hook jumps to a chain of its own.
type ruleset struct {
	name               string
	kind               nftables.ChainType // of the output hook; prerouting of mangle is a filter
	priority           nftables.ChainPriority
	prerouting, output []rule
}

const (
	preroutingChain = "istio-prerouting"
	outputChain     = "istio-output"
)

func (r ruleset) table() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: r.name}
}

func (r ruleset) add(conn *nftables.Conn) {
	table := conn.AddTable(r.table())
	pre := r.kind
	if pre == nftables.ChainTypeRoute {
		pre = nftables.ChainTypeFilter
	}
	for _, hook := range []struct {
		name, own string
		kind      nftables.ChainType
		at        *nftables.ChainHook
		rules     []rule
	}{
		{"prerouting", preroutingChain, pre, nftables.ChainHookPrerouting, r.prerouting},
		{"output", outputChain, r.kind, nftables.ChainHookOutput, r.output},
	} {
		base := conn.AddChain(&nftables.Chain{
			Name: hook.name, Table: table, Type: hook.kind, Hooknum: hook.at, Priority: nftables.ChainPriorityRef(r.priority),
		})
		own := conn.AddChain(&nftables.Chain{Name: hook.own, Table: table})
		conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: rule{&expr.Verdict{Kind: expr.VerdictJump, Chain: hook.own}}})
		for _, exprs := range hook.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: own, Exprs: exprs})
		}
	}
}

// tables are the rules in their order.
func tables() []ruleset {
	const tcp, udp = unix.IPPROTO_TCP, unix.IPPROTO_UDP
	return []ruleset{
		{
			name: "istio-ambient-nat", kind: nftables.ChainTypeNAT, priority: -100,
			prerouting: []rule{
				join(proto(tcp), from(hostProbe), count(), accept()),
				join(notTo(localhost), proto(tcp), port(destination, expr.CmpOpNeq, HBONEPort), notOurs(), count(), redirect(PlaintextPort)),
			},
			output: []rule{
				join(proto(tcp), to(hostProbe), count(), accept()),
				join(outOf(expr.CmpOpNeq, "lo"), notOurs(), proto(udp), port(destination, expr.CmpOpEq, 53), count(), redirect(dnsPort)),
				join(notTo(localhost), proto(tcp), port(destination, expr.CmpOpEq, 53), notOurs(), count(), redirect(dnsPort)),
				join(proto(tcp), marked(replyMark), count(), accept()),
				join(outOf(expr.CmpOpEq, "lo"), notTo(localhost), count(), accept()),
				join(proto(tcp), notTo(localhost), notOurs(), count(), redirect(OutboundPort)),
			},
		},
		{
			name: "istio-ambient-mangle", kind: nftables.ChainTypeRoute, priority: -150,
			prerouting: []rule{join(marked(ProxyMark), count(), markConnection())},
			output:     []rule{join(connectionMarked(), count(), markFromConnection())},
		},
		{
			name: "istio-ambient-raw", kind: nftables.ChainTypeFilter, priority: -300,
			prerouting: []rule{join(proto(udp), port(source, expr.CmpOpEq, 53), notOurs(), count(), zone())},
			output:     []rule{join(proto(udp), port(destination, expr.CmpOpEq, 53), marked(ProxyMark), count(), zone())},
		},
	}
}

func join(parts ...rule) rule {
	var all rule
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func proto(p byte) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, compare(expr.CmpOpEq, []byte{p})}
}

func compare(op expr.CmpOp, data []byte) *expr.Cmp { return &expr.Cmp{Op: op, Register: 1, Data: data} }

// Offsets in the IPv4 header (RFC 791), and of ports in TCP and UDP.
const (
	ipv4Source, ipv4Destination = 12, 16
	source, destination         = 0, 2
)

func address(offset uint32, op expr.CmpOp, a netip.Addr) rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, compare(expr.CmpOpEq, []byte{unix.NFPROTO_IPV4}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}, compare(op, a.AsSlice()),
	}
}

func from(a netip.Addr) rule  { return address(ipv4Source, expr.CmpOpEq, a) }
func to(a netip.Addr) rule    { return address(ipv4Destination, expr.CmpOpEq, a) }
func notTo(a netip.Addr) rule { return address(ipv4Destination, expr.CmpOpNeq, a) }

func port(offset uint32, op expr.CmpOp, n uint16) rule {
	return rule{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		compare(op, binaryutil.BigEndian.PutUint16(n)),
	}
}

func outOf(op expr.CmpOp, link string) rule {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return rule{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, compare(op, name)}
}

func native(x uint32) []byte { return binary.NativeEndian.AppendUint32(nil, x) }

// masked keeps the bits of a mark that these rules own.
func masked() *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(markMask), Xor: native(0)}
}

func markIs(op expr.CmpOp, mark uint32) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, masked(), compare(op, native(mark))}
}

func marked(mark uint32) rule { return markIs(expr.CmpOpEq, mark) }
func notOurs() rule           { return markIs(expr.CmpOpNeq, ProxyMark) }

func connectionMarked() rule {
	return rule{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, masked(), compare(expr.CmpOpEq, native(replyMark))}
}

// markConnection writes the reply mark and leaves the connection's other bits.
func markConnection() rule {
	return rule{
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: native(^uint32(markMask)), Xor: native(replyMark)},
		&expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
	}
}

func markFromConnection() rule {
	return rule{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1, SourceRegister: true}}
}

// zone keeps the proxy's own DNS apart from the application's.
func zone() rule {
	return rule{
		&expr.Immediate{Register: 1, Data: binary.NativeEndian.AppendUint16(nil, 1)},
		&expr.Ct{Key: expr.CtKeyZONE, Register: 1, SourceRegister: true},
	}
}

func count() rule  { return rule{&expr.Counter{}} }
func accept() rule { return rule{&expr.Verdict{Kind: expr.VerdictAccept}} }

func redirect(port uint16) rule {
	return rule{
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1, RegisterProtoMax: 1, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}
}
