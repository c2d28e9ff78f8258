package kind

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/duomesh/duomesh/internal/scenario"
)

// TestServicesHaveAddressesOfTheirOwn: inside the prefixes, of the service's families,
// the same at each question, and nobody else's.
func TestServicesHaveAddressesOfTheirOwn(t *testing.T) {
	ipv4, ipv6 := netip.MustParsePrefix("10.96.64.0/18"), netip.MustParsePrefix("fd00:10:96::4000/114")
	a := newAddresses(ipv4, ipv6, 7)
	seen := map[netip.Addr]string{}
	for _, s := range []scenario.Service{
		{Name: "both", Family: scenario.Dual}, {Name: "four", Family: scenario.IPv4},
		{Name: "six", Family: scenario.IPv6}, {Name: "also", Family: scenario.Dual},
	} {
		got, err := a.of(s)
		if err != nil {
			t.Fatal(err)
		}
		want := 1
		if s.Family == scenario.Dual {
			want = 2
		}
		if len(got) != want {
			t.Errorf("%s has %v, want %d", s.Name, got, want)
		}
		for _, at := range got {
			if !ipv4.Contains(at) && !ipv6.Contains(at) || seen[at] != "" {
				t.Errorf("%s has %s, of %q", s.Name, at, seen[at])
			}
			seen[at] = s.Name
		}
		if again, err := a.of(s); err != nil || !slices.Equal(again, got) {
			t.Errorf("%s has %v, then %v: %v", s.Name, got, again, err)
		}
	}
}

// TestNth: the ends of a prefix are left out, and the numbers come around.
func TestNth(t *testing.T) {
	for _, text := range []string{"10.96.1.0/24", "fd00::100/120"} {
		from := netip.MustParsePrefix(text)
		seen := map[netip.Addr]bool{}
		for n := range uint32(300) {
			at, err := nth(from, n)
			if err != nil || !from.Contains(at) || at == from.Addr() || !from.Contains(at.Next()) {
				t.Fatalf("%s: number %d is %s: %v", from, n, at, err)
			}
			seen[at] = true
		}
		if len(seen) != 254 {
			t.Errorf("%s: %d addresses, want 254", from, len(seen))
		}
	}
	for _, bad := range []netip.Prefix{{}, netip.MustParsePrefix("10.0.0.0/25"), netip.MustParsePrefix("fd00::/64")} {
		if at, err := nth(bad, 1); err == nil {
			t.Errorf("%s: %s and no error", bad, at)
		}
	}
}
