package admin

import (
	"net/http"
	"net/netip"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

func (h handler) services(w http.ResponseWriter, _ *http.Request) {
	list := api.Services{Header: header(api.ServicesSchema), Services: []api.Service{}}
	for _, s := range h.node.Snapshot().Services {
		list.Services = append(list.Services, service(s))
	}
	answer(w, list, nil)
}

func service(s *intent.Service) api.Service {
	form := api.Service{
		Name: s.Key(), Hostname: s.Hostname, Addresses: s.Addresses, Ports: []api.Port{}, Endpoints: len(s.Endpoints),
	}
	for _, p := range s.Ports {
		form.Ports = append(form.Ports, api.Port{Port: p.Port, Protocol: p.Protocol.String(), Target: p.Target})
	}
	if s.Waypoint != nil {
		form.Waypoint = s.Waypoint.Name
	}
	return form
}

// endpoints lists the frontends in the order of services, addresses and ports.
// Of two services that claim one, it is listed once, with the winner.
func (h handler) endpoints(w http.ResponseWriter, _ *http.Request) {
	s := h.node.Snapshot()
	list := api.Endpoints{Header: header(api.EndpointsSchema), Frontends: []api.Frontend{}}
	claims, _ := s.Claims()
	for _, svc := range s.Services {
		for _, addr := range svc.Addresses {
			for _, p := range svc.Ports {
				f := intent.Frontend{Addr: addr, Port: p.Port, Protocol: p.Protocol}
				if c, ok := claims[f]; ok && c.Service == svc {
					list.Frontends = append(list.Frontends, frontend(f, c, h.node.Place()))
				}
			}
		}
	}
	answer(w, list, nil)
}

// frontend says where the frontend of a claim leads for an enrolled pod.
func frontend(f intent.Frontend, c intent.Claim, from intent.Place) api.Frontend {
	alone := intent.Snapshot{Services: []*intent.Service{c.Service}}
	to := netip.AddrPortFrom(f.Addr, f.Port)
	d := intent.Decide(alone, intent.Caller{Managed: true, Place: from}, to, f.Protocol)
	return api.Frontend{
		Service: c.Service.Key(), Frontend: f.String(), Exit: string(d.Exit), Targets: targets(d.Targets),
	}
}

// targets gives each target its share.
func targets(all []intent.Target) []api.Target {
	list := []api.Target{}
	sum := 0.0
	for _, t := range all {
		sum += float64(t.Weight)
	}
	for _, t := range all {
		form := api.Target{Address: t.Addr, Weight: t.Weight, Share: float64(t.Weight) / sum}
		if t.Workload != nil {
			form.Workload = t.Workload.Namespace + "/" + t.Workload.Name
		}
		list = append(list, form)
	}
	return list
}
