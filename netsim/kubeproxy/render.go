package kubeproxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// masqMark is the packet mark by which kube-proxy asks for masquerading.
const masqMark = "0x4000"

// tables is what one address family's iptables-restore is given, and the
// chains that it fills.
type tables struct {
	nat    bytes.Buffer
	filter bytes.Buffer
	chains []string // of nat, per service
}

// fixed are the chains that are there for any services.
var fixed = []string{"KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"}

// render returns the input of iptables-restore --noflush for the services of s
// that have addresses of one family, and the per-service chains in it. stale
// are chains of an earlier input that are removed where they are not used again.
func render(s intent.Snapshot, v6 bool, stale []string) ([]byte, []string) {
	t := new(tables)
	for _, svc := range s.Services {
		for _, addr := range svc.Addresses {
			if addr.Is6() == v6 {
				t.service(svc, addr)
			}
		}
	}
	var out bytes.Buffer
	out.WriteString("*nat\n")
	for _, chain := range slices.Concat(fixed, t.chains, stale) {
		fmt.Fprintf(&out, ":%s - [0:0]\n", chain) // made or emptied
	}
	out.WriteString(masquerade)
	out.Write(t.nat.Bytes())
	for _, chain := range stale {
		if !slices.Contains(t.chains, chain) {
			fmt.Fprintf(&out, "-X %s\n", chain)
		}
	}
	out.WriteString("COMMIT\n*filter\n:KUBE-SERVICES - [0:0]\n")
	out.Write(t.filter.Bytes())
	out.WriteString("COMMIT\n")
	return out.Bytes(), t.chains
}

const masquerade = "-A KUBE-MARK-MASQ -j MARK --or-mark " + masqMark + "\n" +
	"-A KUBE-POSTROUTING -m mark ! --mark " + masqMark + "/" + masqMark + " -j RETURN\n" +
	"-A KUBE-POSTROUTING -j MARK --xor-mark " + masqMark + "\n" +
	"-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n"

// hooks are the jumps from the built-in chains, written once per namespace.
const hooks = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
COMMIT
*filter
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
COMMIT
`

// service writes the rules of one virtual address.
func (t *tables) service(svc *intent.Service, addr netip.Addr) {
	for _, p := range svc.Ports {
		proto := strings.ToLower(p.Protocol.String())
		name := svc.Key() + ":" + strconv.Itoa(int(p.Port))
		match := fmt.Sprintf("-m comment --comment %q -p %s -m %s -d %s --dport %d",
			name+" cluster IP", proto, proto, netip.PrefixFrom(addr, addr.BitLen()), p.Port)
		// The place is empty: kube-proxy without topology hints does not ask
		// where the caller is.
		targets := svc.Targets(p, addr.Is6(), intent.Place{})
		if len(targets) == 0 {
			fmt.Fprintf(&t.filter, "-A KUBE-SERVICES -m comment --comment %q -p %s -m %s -d %s --dport %d -j REJECT%s\n",
				name+" has no endpoints", proto, proto, netip.PrefixFrom(addr, addr.BitLen()), p.Port, reject(p.Protocol))
			continue
		}
		id := fmt.Sprintf("%s/%s/%d/%s", svc.Key(), addr, p.Port, proto)
		chain := chainName("KUBE-SVC-", id)
		t.chains = append(t.chains, chain)
		fmt.Fprintf(&t.nat, "-A KUBE-SERVICES %s -j %s\n", match, chain)
		t.endpoints(chain, name, id, proto, targets)
	}
}

// reject is how a service without endpoints refuses. kube-proxy leaves it at
// REJECT, which answers with ICMP. Between namespaces of one machine that answer
// arrives while connect() still holds the socket, is kept as a soft error, and
// the application hears of it only after the SYN's retransmission, a second
// later (tcp_v4_err). A reset is heard at once.
func reject(p intent.Protocol) string {
	if p == intent.TCP {
		return " --reject-with tcp-reset"
	}
	return ""
}

// endpoints writes the choice: each rule takes its share of what the rules
// before it have left, the last takes the rest.
func (t *tables) endpoints(chain, name, id, proto string, targets []intent.Target) {
	var left uint64
	for _, e := range targets {
		left += uint64(e.Weight)
	}
	for i, e := range targets {
		sep := chainName("KUBE-SEP-", id+"/"+e.Addr.String())
		t.chains = append(t.chains, sep)
		comment := strconv.Quote(name + " -> " + e.Addr.String())
		chance := ""
		if i < len(targets)-1 {
			p := float64(e.Weight) / float64(left)
			chance = " -m statistic --mode random --probability " + strconv.FormatFloat(p, 'f', 11, 64)
		}
		left -= uint64(e.Weight)
		a := e.Addr.Addr()
		fmt.Fprintf(&t.nat, "-A %s -m comment --comment %s%s -j %s\n", chain, comment, chance, sep)
		fmt.Fprintf(&t.nat, "-A %s -m comment --comment %q -s %s -j KUBE-MARK-MASQ\n", sep, name, netip.PrefixFrom(a, a.BitLen()))
		fmt.Fprintf(&t.nat, "-A %s -m comment --comment %q -p %s -m %s -j DNAT --to-destination %s\n", sep, name, proto, proto, e.Addr)
	}
}

// chainName is kube-proxy's: a prefix and 16 characters of the base32 SHA-256 of
// what the chain is for; a chain name has at most 28.
func chainName(prefix, id string) string {
	sum := sha256.Sum256([]byte(id))
	return prefix + base32.StdEncoding.EncodeToString(sum[:])[:16]
}
