package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
)

// dumpedEndpoints is as much of Envoy's dump of its configuration as names endpoints.
type dumpedEndpoints struct {
	Configs []struct {
		Endpoints []struct {
			Config clusterEndpoints `json:"endpoint_config"`
		} `json:"dynamic_endpoint_configs"`
	} `json:"configs"`
}

type clusterEndpoints struct {
	Cluster    string `json:"cluster_name"`
	Localities []struct {
		Endpoints []struct {
			Endpoint struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
					} `json:"socket_address"`
					Internal struct {
						ID string `json:"endpoint_id"`
					} `json:"envoy_internal_address"`
				} `json:"address"`
			} `json:"endpoint"`
		} `json:"lb_endpoints"`
	} `json:"endpoints"`
}

// Endpoints are the addresses of endpoints that Envoy knows, sorted, by the names of its
// clusters, in a dump of its configuration (Get of "/config"; Envoy's admin API,
// /config_dump). One that is reached through a tunnel has its own address, not the tunnel's.
func Endpoints(dump []byte) (map[string][]netip.Addr, error) {
	var d dumpedEndpoints
	if err := json.Unmarshal(dump, &d); err != nil {
		return nil, fmt.Errorf("read the endpoints of Envoy: %w", err)
	}
	all := map[string][]netip.Addr{}
	for _, c := range d.Configs {
		for _, e := range c.Endpoints {
			all[e.Config.Cluster] = e.Config.addresses()
		}
	}
	return all, nil
}

func (e clusterEndpoints) addresses() []netip.Addr {
	all := []netip.Addr{}
	for _, l := range e.Localities {
		for _, one := range l.Endpoints {
			a := one.Endpoint.Address
			if ip, err := netip.ParseAddr(a.Socket.Address); err == nil {
				all = append(all, ip)
			} else if at, err := netip.ParseAddrPort(a.Internal.ID); err == nil {
				all = append(all, at.Addr())
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
