package page

import (
	"fmt"
	"html/template"

	"github.com/duomesh/duomesh/bench/plan"
)

// way is one variant with a picture of how a request goes.
type way struct {
	Variant plan.Variant
	Traits  plan.Traits
	Absent  string
	Picture template.HTML
}

func ways(p plan.Plan) []way {
	var all []way
	for _, v := range plan.Variants() {
		why, absent := p.WhyAbsent(v)
		if absent || has(p.Variants, v) {
			all = append(all, way{v, v.Traits(), why, picture(v)})
		}
	}
	return all
}

func has(all []plan.Variant, v plan.Variant) bool {
	for _, x := range all {
		if x == v {
			return true
		}
	}
	return false
}

// Places in the picture of a way.
const (
	clientX, serverX   = 8, 312
	clientHop, farHop  = 108, 246
	wayWidth, wayLevel = 380, 24
)

// picture draws client, server, and what stands between: a mark where the kernel
// changes the destination, a circle for each proxy, the wire in the middle.
func picture(v plan.Variant) template.HTML {
	t, d := v.Traits(), new(drawing)
	wire := "wire"
	if t.Security == plan.MutualTLS {
		wire = "wire sealed"
	}
	d.add(`<line class="hop" x1="68" x2="%d" y1="%d" y2="%d"/>`, serverX, wayLevel, wayLevel)
	d.add(`<line class=%q x1="%d" x2="%d" y1="%d" y2="%d"/>`, wire, clientHop+14, farHop-14, wayLevel, wayLevel)
	box := func(x int, name string) {
		d.add(`<rect class="podbox" x="%d" y="%d" width="60" height="28" rx="6"/>`, x, wayLevel-14)
		d.text(fmt.Sprint(x+30), wayLevel+4, "middle", "tick", name)
	}
	box(clientX, "client")
	box(serverX, "server")
	middle := (clientHop + farHop) / 2
	label := "plaintext"
	if t.Security == plan.MutualTLS {
		label = "mutual TLS"
	}
	above := wayLevel - 7.0
	if t.Redirect && v.Proxied() {
		above = wayLevel - 16
	}
	d.text(fmt.Sprint(middle), above, "middle", "tick", label)
	switch {
	case t.Redirect:
		for _, x := range []int{clientHop, farHop} {
			d.add(`<circle class="proxy" cx="%d" cy="%d" r="14"/>`, x, wayLevel)
			d.text(fmt.Sprint(x), wayLevel+4, "middle", "tick", "P")
		}
		if v.Proxied() {
			d.add(`<circle class="proxy" cx="%d" cy="%d" r="14"/>`, middle, wayLevel)
			d.text(fmt.Sprint(middle), wayLevel+4, "middle", "tick", "E")
		}
	case v == plan.DNAT || v == plan.DNAT1000:
		d.add(`<rect class="mark" x="%d" y="%d" width="40" height="20" rx="3"/>`, clientHop-20, wayLevel-10)
		d.text(fmt.Sprint(clientHop), wayLevel+4, "middle", "tick", "NAT")
	case v.Proxied():
		d.add(`<circle class="proxy" cx="%d" cy="%d" r="14"/>`, farHop, wayLevel)
		d.text(fmt.Sprint(farHop), wayLevel+4, "middle", "tick", "E")
		if v == plan.L7 {
			d.add(`<circle class="mark" cx="%d" cy="%d" r="5"/>`, clientX+60, wayLevel)
			d.text(fmt.Sprint(clientX+70), wayLevel+17, "start", "tick", "connect()")
		}
	case v == plan.L4:
		d.add(`<circle class="mark" cx="%d" cy="%d" r="5"/>`, clientX+60, wayLevel)
		d.text(fmt.Sprint(clientX+70), wayLevel+17, "start", "tick", "connect()")
	}
	return template.HTML(fmt.Sprintf(`<svg class="way %s" viewBox="0 0 %d 48" role="img" aria-label="client, %s, server">%s</svg>`,
		class(v), wayWidth, label, d.String()))
}
