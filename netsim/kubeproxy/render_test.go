package kubeproxy

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// service makes a dual-stack service whose i'th endpoint has the i'th weight.
func service(name string, vip4, vip6 string, weights ...uint32) *intent.Service {
	s := &intent.Service{
		Name: name, Namespace: "default",
		Addresses: []netip.Addr{netip.MustParseAddr(vip4), netip.MustParseAddr(vip6)},
		Ports:     []intent.Port{{Port: 80, Target: 8080, Protocol: intent.TCP}},
	}
	for i, w := range weights {
		s.Endpoints = append(s.Endpoints, intent.Endpoint{Workload: &intent.Workload{
			UID: strconv.Itoa(i), Weight: w, Addresses: []netip.Addr{
				netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}),
				netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}),
			},
		}})
	}
	return s
}

func snapshot(services ...*intent.Service) intent.Snapshot {
	return intent.Snapshot{Services: services}
}

func TestRender(t *testing.T) {
	got, chains := render(snapshot(
		service("shop", "10.96.0.1", "fd96::1", 90, 10),
		service("empty", "10.96.0.2", "fd96::2", 0),
	), false, []string{"KUBE-SVC-OLD"})
	if len(chains) != 3 {
		t.Fatalf("chains %v, want one of the service and two of its endpoints", chains)
	}
	names := strings.NewReplacer(chains[0], "SVC", chains[1], "SEP1", chains[2], "SEP2")
	const want = `*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:SVC - [0:0]
:SEP1 - [0:0]
:SEP2 - [0:0]
:KUBE-SVC-OLD - [0:0]
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -m comment --comment "default/shop:80 cluster IP" -p tcp -m tcp -d 10.96.0.1/32 --dport 80 -j SVC
-A SVC -m comment --comment "default/shop:80 -> 10.1.0.0:8080" -m statistic --mode random --probability 0.90000000000 -j SEP1
-A SEP1 -m comment --comment "default/shop:80" -s 10.1.0.0/32 -j KUBE-MARK-MASQ
-A SEP1 -m comment --comment "default/shop:80" -p tcp -m tcp -j DNAT --to-destination 10.1.0.0:8080
-A SVC -m comment --comment "default/shop:80 -> 10.1.0.1:8080" -j SEP2
-A SEP2 -m comment --comment "default/shop:80" -s 10.1.0.1/32 -j KUBE-MARK-MASQ
-A SEP2 -m comment --comment "default/shop:80" -p tcp -m tcp -j DNAT --to-destination 10.1.0.1:8080
-X KUBE-SVC-OLD
COMMIT
*filter
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -m comment --comment "default/empty:80 has no endpoints" -p tcp -m tcp -d 10.96.0.2/32 --dport 80 -j REJECT --reject-with tcp-reset
COMMIT
`
	if diff := cmp.Diff(want, names.Replace(string(got))); diff != "" {
		t.Error(diff)
	}
	six, _ := render(snapshot(service("shop", "10.96.0.1", "fd96::1", 1)), true, nil)
	for _, want := range []string{"-d fd96::1/128 --dport 80", "--to-destination [fd00::]:8080"} {
		if !strings.Contains(string(six), want) {
			t.Errorf("IPv6 rules without %q:\n%s", want, six)
		}
	}
}

var chance = regexp.MustCompile(`--probability ([0-9.]+)`)

// TestShares walks the choice as the kernel does and compares with the weights.
func TestShares(t *testing.T) {
	for _, weights := range [][]uint32{{1}, {1, 1, 1}, {90, 10}, {1, 0, 3}, {1, 1000000}, {7, 7, 7, 7, 7, 7, 1}, {math.MaxUint32, 1, math.MaxUint32}} {
		t.Run(fmt.Sprint(weights), func(t *testing.T) {
			var total float64
			for _, w := range weights {
				total += float64(w)
			}
			out, chains := render(snapshot(service("s", "10.96.0.1", "fd96::1", weights...)), false, nil)
			left, seen := 1.0, 0
			want := slices.DeleteFunc(slices.Clone(weights), func(w uint32) bool { return w == 0 })
			for line := range strings.Lines(string(out)) {
				if !strings.HasPrefix(line, "-A "+chains[0]) {
					continue
				}
				p := 1.0
				if m := chance.FindStringSubmatch(line); m != nil {
					p, _ = strconv.ParseFloat(m[1], 64)
				}
				if got, w := left*p, float64(want[seen])/total; math.Abs(got-w) > 1e-9 {
					t.Errorf("endpoint %d has share %g, want %g", seen, got, w)
				}
				left *= 1 - p
				seen++
			}
			if seen != len(want) || left != 0 {
				t.Errorf("%d choices for %d endpoints, %g of the connections go nowhere", seen, len(want), left)
			}
		})
	}
}
