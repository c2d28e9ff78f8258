package ambient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// known is what of a ztunnel's configuration says where it sends connections.
type known struct {
	Services []struct {
		VIPs      []string `json:"vips"`
		Endpoints map[string]struct{ WorkloadUID string }
	}
	Workloads []struct {
		UID         string
		WorkloadIPs []string
		Protocol    string
	}
}

// protocolHBONE is that of a workload which is reached through the tunnel.
const protocolHBONE = "HBONE"

// Lacks asks a ztunnel at its admin port what it does not know of a service, "" where it
// sends what goes to its address through the tunnel to a pod at one of the addresses.
// What it does not know it passes on as it is: connections that must not be made of a
// pod's, since the kernel of the pod keeps for two minutes where such a one was sent, and
// sends the next one of the same source port there, past the proxy.
func (r *Running) Lacks(ctx context.Context, service netip.Addr, pod netip.Addr) (string, error) {
	dump, err := r.get(ctx, "http://"+adminAddress+"/config_dump")
	if err != nil {
		return "", fmt.Errorf("ask the node proxy what it knows: %w", err)
	}
	var k known
	if err := json.Unmarshal(dump, &k); err != nil {
		return "", fmt.Errorf("read the node proxy's configuration: %w", err)
	}
	return k.lacks(service, pod), nil
}

func (k known) lacks(service, pod netip.Addr) string {
	endpoints, found := k.endpointsOf(service)
	if !found {
		return fmt.Sprintf("it does not know service %s", service)
	}
	for _, w := range k.Workloads {
		if !has(w.WorkloadIPs, pod) {
			continue
		}
		switch {
		case w.Protocol != protocolHBONE:
			return fmt.Sprintf("it reaches pod %s by %s", pod, w.Protocol)
		case !endpoints[w.UID]:
			return fmt.Sprintf("pod %s is no endpoint of service %s", pod, service)
		}
		return ""
	}
	return fmt.Sprintf("it does not know pod %s", pod)
}

// endpointsOf are the workloads of the service with an address.
func (k known) endpointsOf(service netip.Addr) (uids map[string]bool, found bool) {
	for _, s := range k.Services {
		if !has(s.VIPs, service) {
			continue
		}
		uids = map[string]bool{}
		for _, e := range s.Endpoints {
			uids[e.WorkloadUID] = true
		}
		return uids, true
	}
	return nil, false
}

// has looks for an address, which may stand after the name of its network.
func has(all []string, want netip.Addr) bool {
	for _, text := range all {
		at, err := netip.ParseAddr(text[strings.LastIndex(text, "/")+1:])
		if err == nil && at == want {
			return true
		}
	}
	return false
}
