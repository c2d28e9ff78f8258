package xds

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// workload makes the intent of one workload. Notices are what it asks for and
// nobody here does.
func workload(w *workloadapi.Workload) (_ *intent.Workload, notices []string, err error) {
	if w.Uid == "" {
		return nil, nil, errors.New("workload without a uid")
	}
	out := &intent.Workload{
		UID: w.Uid, Name: w.Name, Namespace: w.Namespace, Weight: 1,
		Node: w.Node, Network: w.Network, Cluster: w.ClusterId,
		Locality: intent.Locality{
			Region: w.GetLocality().GetRegion(), Zone: w.GetLocality().GetZone(), Subzone: w.GetLocality().GetSubzone(),
		},
		HostNetwork: w.NetworkMode == workloadapi.NetworkMode_HOST_NETWORK,
	}
	for _, b := range w.Addresses {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return nil, nil, fmt.Errorf("an address of %d bytes", len(b))
		}
		out.Addresses = append(out.Addresses, a.Unmap())
	}
	if w.Capacity != nil {
		out.Weight = w.Capacity.Value
	}
	switch w.Status {
	case workloadapi.WorkloadStatus_HEALTHY:
	case workloadapi.WorkloadStatus_UNHEALTHY:
		out.Unhealthy = true
	default:
		return nil, nil, fmt.Errorf("status %d is not known", w.Status)
	}
	if _, known := workloadapi.NetworkMode_name[int32(w.NetworkMode)]; !known {
		return nil, nil, fmt.Errorf("network mode %d is not known", w.NetworkMode)
	}
	return out, workloadNotices(w), nil
}

func workloadNotices(w *workloadapi.Workload) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if w.Waypoint != nil {
		say("waypoint %s: connections to this workload do not pass it", gateway(w.Waypoint))
	}
	if len(w.Addresses) == 0 && w.Hostname != "" {
		say("hostname %s: names are not resolved, the workload is never chosen", w.Hostname)
	}
	if w.NetworkGateway != nil {
		say("network gateway %s: workloads of other networks are never chosen", gateway(w.NetworkGateway))
	}
	for _, p := range w.AuthorizationPolicies {
		say("policy %s is NOT ENFORCED", p)
	}
	return all
}

// gateway writes the address of a waypoint or gateway for people.
func gateway(g *workloadapi.GatewayAddress) string {
	if h := g.GetHostname(); h != nil {
		return h.Namespace + "/" + h.Hostname
	}
	a, _ := netip.AddrFromSlice(g.GetAddress().GetAddress())
	return a.Unmap().String()
}

// portsOf is the workload's own target ports for one service, nil where it is not
// behind it.
func portsOf(w *workloadapi.Workload, service string) (map[uint16]uint16, error) {
	ports := map[uint16]uint16{}
	for _, p := range w.Services[service].GetPorts() {
		if p.ServicePort == 0 || p.ServicePort > 65535 || p.TargetPort > 65535 {
			return nil, fmt.Errorf("service %s: port %d to %d is none", service, p.ServicePort, p.TargetPort)
		}
		if p.TargetPort != 0 {
			ports[uint16(p.ServicePort)] = uint16(p.TargetPort)
		}
	}
	return ports, nil
}
