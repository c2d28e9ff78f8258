package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// configure writes the runtime's configuration, when it does not name the node's
// shares yet: others may have put their plugins into it.
func configure(file string, cidrs []string) error {
	if len(cidrs) == 0 {
		return nil // the controller has not given the node any yet
	}
	had, err := os.ReadFile(file)
	if err == nil && names(had, cidrs) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the runtime's configuration: %w", err)
	}
	text := fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "podnet",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/run/podnet", "routes": %s,
     "ranges": %s}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, routes(cidrs), ranges(cidrs))
	part := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	if err := os.WriteFile(part, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the runtime's configuration: %w", err)
	}
	return os.Rename(part, file)
}

// names reports whether a configuration has exactly these addresses.
func names(text []byte, cidrs []string) bool {
	var conf struct {
		Plugins []struct {
			IPAM struct {
				Ranges [][]map[string]string `json:"ranges"`
			} `json:"ipam"`
		} `json:"plugins"`
	}
	if err := json.Unmarshal(text, &conf); err != nil || len(conf.Plugins) == 0 {
		return false
	}
	return bytes.Equal(encoded(conf.Plugins[0].IPAM.Ranges), ranges(cidrs))
}

func ranges(cidrs []string) []byte {
	var all [][]map[string]string
	for _, c := range cidrs {
		all = append(all, []map[string]string{{"subnet": c}})
	}
	return encoded(all)
}

func routes(cidrs []string) []byte {
	var all []map[string]string
	for _, c := range cidrs {
		to := "0.0.0.0/0"
		if p, err := netip.ParsePrefix(c); err == nil && p.Addr().Is6() {
			to = "::/0"
		}
		all = append(all, map[string]string{"dst": to})
	}
	return encoded(all)
}

func encoded(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // texts in lists can always be encoded
	}
	return text
}

// addressFor is the node's address of the family of its pods' addresses.
func addressFor(cidr string, all []corev1.NodeAddress) (string, error) {
	p, err := netip.ParsePrefix(cidr)
	if err != nil {
		return "", fmt.Errorf("pod addresses %q: %w", cidr, err)
	}
	for _, a := range all {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if at, err := netip.ParseAddr(a.Address); err == nil && at.Is6() == p.Addr().Is6() {
			return a.Address, nil
		}
	}
	return "", fmt.Errorf("no address of its own for its pods' %s", cidr)
}

// protocol marks the routes that are ours in the kernel's table.
const protocol = 0x70

// route makes the routes to other nodes' pods those that are wanted.
func route(want map[string]string) error {
	ours := &netlink.Route{Protocol: protocol}
	have, err := netlink.RouteListFiltered(unix.AF_UNSPEC, ours, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list the routes to pods: %w", err)
	}
	var errs []error
	for _, r := range have {
		if r.Dst == nil || want[r.Dst.String()] == "" {
			errs = append(errs, netlink.RouteDel(&r))
		}
	}
	for cidr, gateway := range want {
		_, dst, err := net.ParseCIDR(cidr)
		if err != nil {
			return fmt.Errorf("pod addresses %q: %w", cidr, err)
		}
		if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: net.ParseIP(gateway), Protocol: protocol}); err != nil {
			errs = append(errs, fmt.Errorf("route %s to %s: %w", cidr, gateway, err))
		}
	}
	return errors.Join(errs...)
}
