package plan

import "slices"

// Variant is one way from a client to the server.
type Variant string

// The variants.
const (
	// Direct: the client asks for the server pod's own address. The floor.
	Direct Variant = "direct"
	// DirectAA is Direct once more, in a world of its own. What it differs from
	// Direct by is noise, and nothing smaller can be claimed.
	DirectAA Variant = "direct-aa"
	// DNAT: a service address, translated by kube-proxy's iptables rules for
	// one service.
	DNAT Variant = "dnat"
	// DNAT1000 is DNAT where the node has rules for 1000 services.
	DNAT1000 Variant = "dnat-1000"
	// L4: a service address, redirected by duomesh at connect().
	L4 Variant = "duomesh-l4"
	// L7: a service address, redirected by duomesh to a waypoint's Envoy, which asks
	// the server.
	L7 Variant = "duomesh-l7"
	// EnvoyDirect: the client dials an Envoy of the same kind itself, at a listener
	// that has the chain of L7's service. What L7 differs from it by is the hand-off.
	EnvoyDirect Variant = "envoy-direct"
	// Ztunnel: Istio Ambient's own node proxy, HBONE with mutual TLS. It needs a
	// ztunnel binary.
	Ztunnel Variant = "ztunnel"
	// ZtunnelPlain: the same redirect and the same proxy, workload protocol TCP:
	// no TLS and no HBONE.
	ZtunnelPlain Variant = "ztunnel-plain"
	// ZtunnelWaypoint: the client's ztunnel goes to a stock Envoy by HBONE, and that by
	// another tunnel to the server's. Istio Ambient's way with HTTP.
	ZtunnelWaypoint Variant = "ztunnel-waypoint"
	// HBONERef: our Go proxy that speaks HBONE behind the same redirect. It is a
	// stand-in and not ztunnel.
	HBONERef Variant = "hboneref"
	// HBONERefWaypoint is ZtunnelWaypoint with the stand-in in ztunnel's place.
	HBONERefWaypoint Variant = "hboneref-waypoint"
	// TCPRedirect: the stand-in without TLS and HBONE: the same redirect, a plain
	// copy. A control.
	TCPRedirect Variant = "tcp-redirect"
)

// Variants returns all of them, in the order of a table.
func Variants() []Variant {
	return []Variant{
		Direct, DirectAA, DNAT, DNAT1000, L4, L7, EnvoyDirect,
		Ztunnel, ZtunnelPlain, ZtunnelWaypoint, HBONERef, HBONERefWaypoint, TCPRedirect,
	}
}

// Traits are what a reader must know of a variant before its figures.
type Traits struct {
	// Way says in words how a request gets to the server.
	Way string
	// Security is what protects the bytes between the two nodes.
	Security string
	// Needs are the things without which the variant is NOT RUN; empty where
	// nothing but this program is needed.
	Needs []string
	// StandIn says that the variant is a stand-in and not the thing; For is what it
	// stands in for.
	StandIn string
	For     Variant
	// Redirect is set where in-pod rules hand connections to a node proxy.
	Redirect bool
	// Many is set where short connections to several services are measured too: once
	// for each kind of redirect.
	Many bool
}

// What the bytes between two nodes are protected by.
const (
	Plaintext = "plaintext"
	MutualTLS = "mutual TLS"
)

var traits = map[Variant]Traits{
	Direct:   {Way: "the client asks for the server pod's own address", Security: Plaintext},
	DirectAA: {Way: "direct once more, in another simulated cluster: what it shows is noise", Security: Plaintext},
	DNAT:     {Way: "a service address, translated per packet by kube-proxy's rules for 1 service", Security: Plaintext},
	DNAT1000: {Way: "the same with rules for 1000 services", Security: Plaintext},
	L4:       {Way: "a service address, replaced by the endpoint's at connect(); no proxy", Security: Plaintext, Many: true},
	L7: {
		Way:      "a service address, handed to a waypoint's Envoy at connect(); Envoy asks the server",
		Security: Plaintext, Needs: []string{NeedsEnvoy},
	},
	EnvoyDirect: {
		Way:      "the client dials the same Envoy itself: the floor of every way with a waypoint",
		Security: Plaintext, Needs: []string{NeedsEnvoy},
	},
	Ztunnel: {
		Way:      "Istio Ambient: in-pod redirect to ztunnel, HBONE to the server's ztunnel, then the server",
		Security: MutualTLS, Needs: []string{NeedsZtunnel}, Redirect: true, Many: true,
	},
	ZtunnelPlain: {
		Way:      "the same redirect and the same two ztunnels, workload protocol TCP: no TLS, no HBONE",
		Security: Plaintext, Needs: []string{NeedsZtunnel}, Redirect: true,
	},
	ZtunnelWaypoint: {
		Way:      "Istio Ambient with a waypoint: ztunnel, HBONE to the same Envoy, HBONE to the server's ztunnel",
		Security: MutualTLS, Needs: []string{NeedsZtunnel, NeedsEnvoy}, Redirect: true,
	},
	HBONERef: {
		Way:      "the same redirect to a Go proxy that speaks HBONE",
		Security: MutualTLS, StandIn: "a reference in Go that stands in for ztunnel, and not ztunnel", For: Ztunnel, Redirect: true,
		Many: true,
	},
	HBONERefWaypoint: {
		Way:      "that Go proxy, HBONE to the same Envoy, HBONE to the server's Go proxy",
		Security: MutualTLS, Needs: []string{NeedsEnvoy}, Redirect: true,
		StandIn: "a reference in Go around an Envoy that stands in for ztunnel-waypoint, and not ztunnel", For: ZtunnelWaypoint,
	},
	TCPRedirect: {
		Way:      "the same redirect to that Go proxy, which copies: no TLS, no HBONE",
		Security: Plaintext, StandIn: "a control in Go, and not ztunnel", For: ZtunnelPlain, Redirect: true,
	},
}

// What a variant may need.
const (
	NeedsZtunnel = "a ztunnel binary"
	NeedsEnvoy   = "an Envoy, and a duomesh-waypoint"
)

// Traits returns what is to be known of a variant.
func (v Variant) Traits() Traits { return traits[v] }

// Proxied reports whether an Envoy stands between client and server.
func (v Variant) Proxied() bool { return v.Traits().Need(NeedsEnvoy) }

// Need reports whether a variant cannot run without a thing.
func (t Traits) Need(thing string) bool { return slices.Contains(t.Needs, thing) }

// Baselines are the variants that others of the same layer are held against beside
// direct: what runs of Istio Ambient, what stands in for it, and the bare Envoy.
func Baselines() []Variant {
	return []Variant{Ztunnel, ZtunnelPlain, HBONERef, TCPRedirect, EnvoyDirect, ZtunnelWaypoint, HBONERefWaypoint}
}

// StandIns are shown where what they stand in for cannot run.
func StandIns() []Variant { return []Variant{HBONERef, HBONERefWaypoint} }

// Label is the name under which a variant is shown: with a stand-in's goes what it is
// not.
func (v Variant) Label() string {
	if v.Traits().StandIn != "" {
		return string(v) + " (not ztunnel)"
	}
	return string(v)
}

// Securities says whether two variants offer the same between the nodes.
func Securities(v, base Variant) string {
	a, b := v.Traits().Security, base.Traits().Security
	if a == b {
		return "both " + a
	}
	return "UNEQUAL: " + a + ", " + b
}

// Absent is a variant that was asked for and cannot run.
type Absent struct {
	Variant Variant `json:"variant"`
	Reason  string  `json:"reason"`
}

// Needs says that a variant of the plan needs a thing.
func (p Plan) Needs(thing string) bool {
	return slices.ContainsFunc(p.Variants, func(v Variant) bool { return v.Traits().Need(thing) })
}

// Without takes the variants that need a thing out of the plan, and says there
// that they were NOT RUN, and why.
func (p Plan) Without(needs, reason string) Plan {
	p.Variants = slices.DeleteFunc(slices.Clone(p.Variants), func(v Variant) bool {
		gone := v.Traits().Need(needs)
		if gone {
			p.Absent = append(slices.Clone(p.Absent), Absent{v, reason})
		}
		return gone
	})
	return p
}

// WhyAbsent returns the reason for which a variant was not run.
func (p Plan) WhyAbsent(v Variant) (reason string, absent bool) {
	i := slices.IndexFunc(p.Absent, func(a Absent) bool { return a.Variant == v })
	if i < 0 {
		return "", false
	}
	return p.Absent[i].Reason, true
}
