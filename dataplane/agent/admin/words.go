package admin

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// words says in sentences why a decision is what it is.
func words(e api.Explanation, d intent.Decision, s intent.Snapshot, status api.Status) []string {
	var why []string
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	if status.Problem != "" {
		say("Nothing of this holds now: %s.", status.Problem)
	}
	if e.Managed {
		say("Pod %s is enrolled on node %s.", e.From, e.Node)
	}
	switch d.Exit {
	case intent.PassUnmanaged:
		say("Pod %s is not enrolled on node %s: the engine leaves its connections alone.", e.From, e.Node)
	case intent.PassNoVIP:
		say("%s is the address of no service: the connection goes to it as asked.", e.To.Addr())
		if w := ownerOf(s, e.To.Addr()); w != nil {
			say("It is %s/%s's own address.", w.Namespace, w.Name)
		}
	case intent.PassPassthrough:
		say("Service %s asks that connections go to its address as asked.", d.Service)
	case intent.RefuseNoPort:
		say("%s is an address of service %s, which declares no port %d/%s: refused at connect(), no packet is sent.",
			e.To.Addr(), d.Service, e.To.Port(), e.Protocol)
	case intent.RefuseNoEndpoint:
		say("Service %s has no endpoint that can be chosen from this node: refused at connect(), no packet is sent.", d.Service)
		why = append(why, excluded(s, d.Service, e.To.Addr().Unmap().Is6())...)
	case intent.RefuseNoWaypoint:
		say("A waypoint is declared, and no replica of it can be reached: refused at connect(), no packet is sent.")
	case intent.RefusePolicy:
		say("A policy names a workload that it would go to, nobody enforces it, and the agent is told to refuse then: refused at connect(), no packet is sent.")
	case intent.RedirectWaypoint:
		say("A waypoint is declared: the connection goes to one of its replicas.")
	case intent.Redirect:
		say("It is a declared port of service %s: one of %d endpoints is chosen at connect(), by weight.", d.Service, len(d.Targets))
	}
	say("Since the maps were made, %d connections of this node ended as %s.", e.Count, d.Exit)
	return why
}

func ownerOf(s intent.Snapshot, addr netip.Addr) *intent.Workload {
	for _, w := range s.Workloads {
		for _, a := range w.Addresses {
			if a == addr.Unmap() {
				return w
			}
		}
	}
	return nil
}

// excluded says of each endpoint of a service what may keep it from being chosen.
func excluded(s intent.Snapshot, service string, v6 bool) []string {
	const most = 10
	var why []string
	for _, svc := range s.Services {
		if svc.Key() != service {
			continue
		}
		if len(svc.Endpoints) == 0 {
			return []string{"It has no endpoints at all."}
		}
		for i, ep := range svc.Endpoints {
			if i == most {
				return append(why, fmt.Sprintf("And %d more endpoints.", len(svc.Endpoints)-i))
			}
			why = append(why, fmt.Sprintf("Endpoint %s/%s: %s.", ep.Workload.Namespace, ep.Workload.Name, obstacle(svc, ep, v6)))
		}
	}
	return why
}

func obstacle(svc *intent.Service, ep intent.Endpoint, v6 bool) string {
	w := ep.Workload
	has := slices.ContainsFunc(w.Addresses, func(a netip.Addr) bool { return a.Is6() == v6 })
	switch {
	case w.Weight == 0:
		return "its weight is 0"
	case w.Unhealthy && !svc.Balance.AllowUnhealthy:
		return "it is not ready"
	case !has:
		return "it has no address of this family"
	case svc.Balance.Mode == intent.Strict:
		return "it is outside the locality that the service insists on, or on another network"
	}
	return "it is on another network, or names no port of its own"
}
