package xds

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"unique"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// workload is one workload that istiod has sent, and what follows from that and other
// resources.
type workload struct {
	sentWorkload

	// out is what the Snapshot has: base, where nothing else has a say.
	// It was made of the base in of.
	out *intent.Workload
	of  *intent.Workload
	at  place
	// serves counts the waypoints of which it is a replica.
	serves int
}

// sentWorkload is what istiod has sent of one.
type sentWorkload struct {
	base     *intent.Workload
	services []membership // in the order of their keys
	waypoint reference
	notices  []string
}

// membership is a workload's part in one service.
type membership struct {
	service string
	ports   map[uint16]uint16 // its own target ports
}

// same holds what was sent against what was sent before.
func (w *sentWorkload) same(o *sentWorkload) bool {
	return sameValue(w.base, o.base) && sameValue(w.services, o.services) && w.waypoint == o.waypoint &&
		slices.Equal(w.notices, o.notices)
}

// ports are the workload's own target ports for one service.
func (w *workload) ports(service string) map[uint16]uint16 {
	for _, m := range w.services {
		if m.service == service {
			return m.ports
		}
	}
	return nil
}

func byUID(a, b *workload) int { return cmp.Compare(a.base.UID, b.base.UID) }

// shared returns the one copy of a text that many resources have.
func shared(text string) string { return unique.Make(text).Value() }

// decodeWorkload takes a workload as it is sent under a name.
func (m *mesh) decodeWorkload(name string, w *workloadapi.Workload) (out sentWorkload, err error) {
	if w.Uid == "" {
		return out, errors.New("workload without a uid")
	}
	if w.Uid != name {
		return out, fmt.Errorf("the workload in it has another uid: %s", w.Uid)
	}
	out.base = &intent.Workload{
		UID: name, Name: w.Name, Namespace: shared(w.Namespace), Hostname: w.Hostname, Weight: 1,
		Node: shared(w.Node), Network: shared(w.Network), Cluster: shared(w.ClusterId),
		Locality: intent.Locality{
			Region:  shared(w.GetLocality().GetRegion()),
			Zone:    shared(w.GetLocality().GetZone()),
			Subzone: shared(w.GetLocality().GetSubzone()),
		},
		HostNetwork: w.NetworkMode == workloadapi.NetworkMode_HOST_NETWORK,
	}
	if w.Capacity != nil {
		out.base.Weight = w.Capacity.Value
	}
	for _, p := range w.AuthorizationPolicies {
		out.base.Policies = append(out.base.Policies, shared(p))
	}
	if err := cmp.Or(out.addresses(w), out.enums(w), out.way(w), m.memberships(&out, w)); err != nil {
		return out, err
	}
	if err := out.base.Validate(); err != nil {
		return out, err
	}
	if w.NetworkGateway != nil {
		out.say("network gateway %s is not used: workloads of other networks are never chosen", gatewayName(w.NetworkGateway))
	}
	if w.GetApplicationTunnel().GetProtocol() != workloadapi.ApplicationTunnel_NONE {
		out.say("application tunnel %s is not used", w.ApplicationTunnel.Protocol)
	}
	return out, nil
}

func (w *sentWorkload) say(format string, args ...any) {
	w.notices = append(w.notices, shared(fmt.Sprintf(format, args...)))
}

func (w *sentWorkload) addresses(sent *workloadapi.Workload) error {
	for _, b := range sent.Addresses {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return fmt.Errorf("an address of %d bytes", len(b))
		}
		w.base.Addresses = append(w.base.Addresses, a.Unmap())
	}
	if len(w.base.Addresses) > 0 {
		w.base.Hostname = "" // addresses say it all
	}
	return nil
}

func (w *sentWorkload) enums(sent *workloadapi.Workload) error {
	switch sent.Status {
	case workloadapi.WorkloadStatus_HEALTHY:
	case workloadapi.WorkloadStatus_UNHEALTHY:
		w.base.Unhealthy = true
	default:
		return fmt.Errorf("status %d is not known", sent.Status)
	}
	if _, known := workloadapi.NetworkMode_name[int32(sent.NetworkMode)]; !known {
		return fmt.Errorf("network mode %d is not known", sent.NetworkMode)
	}
	return nil
}

func (w *sentWorkload) way(sent *workloadapi.Workload) (err error) {
	w.waypoint, err = referenceOf(sent.Waypoint)
	return err
}

func (m *mesh) memberships(w *sentWorkload, sent *workloadapi.Workload) error {
	if len(sent.Services) > 0 {
		w.services = make([]membership, 0, len(sent.Services))
	}
	for key, list := range sent.Services {
		ports, err := ownPorts(list)
		if err != nil {
			return fmt.Errorf("service %s: %w", key, err)
		}
		w.services = append(w.services, membership{shared(key), m.sharedPorts(ports)})
	}
	slices.SortFunc(w.services, func(a, b membership) int { return cmp.Compare(a.service, b.service) })
	return nil
}

func ownPorts(l *workloadapi.PortList) (map[uint16]uint16, error) {
	var ports map[uint16]uint16
	for _, p := range l.GetPorts() {
		if err := checkPort(p); err != nil {
			return nil, err
		}
		if p.TargetPort == 0 {
			continue
		}
		if ports == nil {
			ports = map[uint16]uint16{}
		}
		ports[uint16(p.ServicePort)] = uint16(p.TargetPort)
	}
	return ports, nil
}

func checkPort(p *workloadapi.Port) error {
	if p.ServicePort == 0 || p.ServicePort > 65535 || p.TargetPort > 65535 {
		return fmt.Errorf("port %d to %d is none", p.ServicePort, p.TargetPort)
	}
	return nil
}

// sharedPorts returns the last copy of an equal map: the workloads behind a service
// mostly have the same ports.
func (m *mesh) sharedPorts(ports map[uint16]uint16) map[uint16]uint16 {
	if maps.Equal(ports, m.lastPorts) {
		return m.lastPorts
	}
	m.lastPorts = ports
	return ports
}
