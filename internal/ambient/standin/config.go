package standin

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/duomesh/duomesh/internal/ambient"
)

// Name is argv[0] of a stand-in.
const Name = "duomesh-hboneref"

// version is what it calls itself.
const version = "hboneref, a Go reference and not ztunnel"

// config is what a ztunnel is told by its environment.
type config struct {
	node, zds        string
	ca, root         string
	workers          int
	accessLog        bool
	services         map[netip.AddrPort]netip.AddrPort
	waypoints        map[netip.AddrPort]netip.AddrPort // of services that have one, and where it is
	workloads        map[netip.Addr]ambient.Workload
	workloadsOfNames map[string]ambient.Workload
}

func parseConfig(environ []string) (config, error) {
	env := map[string]string{}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	c := config{
		node: env["NODE_NAME"], zds: env["INPOD_UDS"], accessLog: !strings.Contains(env["RUST_LOG"], "access=off"),
		ca: strings.TrimPrefix(env["CA_ADDRESS"], "https://"), root: env["CA_ROOT_CA"],
	}
	for _, name := range []string{"NODE_NAME", "INPOD_UDS", "CA_ADDRESS", "CA_ROOT_CA", "LOCAL_XDS_PATH"} {
		if env[name] == "" {
			return c, fmt.Errorf("%s is not set", name)
		}
	}
	var err error
	if c.workers, err = strconv.Atoi(env["ZTUNNEL_WORKER_THREADS"]); err != nil {
		return c, fmt.Errorf("ZTUNNEL_WORKER_THREADS: %w", err)
	}
	b, err := os.ReadFile(env["LOCAL_XDS_PATH"])
	if err != nil {
		return c, fmt.Errorf("read workloads: %w", err)
	}
	return c, c.load(b)
}

// load reads the file of workloads: each service's address leads to its one pod.
func (c *config) load(file []byte) error {
	var all ambient.Workloads
	if err := yaml.UnmarshalWithOptions(file, &all, yaml.Strict()); err != nil {
		return fmt.Errorf("read workloads: %w", err)
	}
	c.services, c.workloads = map[netip.AddrPort]netip.AddrPort{}, map[netip.Addr]ambient.Workload{}
	c.waypoints = map[netip.AddrPort]netip.AddrPort{}
	c.workloadsOfNames = map[string]ambient.Workload{}
	backends := map[string]ambient.Workload{}
	for _, w := range all.Workloads {
		c.workloadsOfNames[w.Name] = w
		for _, ip := range w.WorkloadIPs {
			a, err := netip.ParseAddr(ip)
			if err != nil {
				return fmt.Errorf("workload %s: %w", w.Name, err)
			}
			c.workloads[a] = w
		}
		for host := range w.Services {
			backends[host] = w
		}
	}
	for _, s := range all.Services {
		host := s.Namespace + "/" + s.Hostname
		w, ok := backends[host]
		if !ok || len(w.WorkloadIPs) == 0 {
			return fmt.Errorf("service %s has no workload", host)
		}
		to, err := netip.ParseAddr(w.WorkloadIPs[0])
		if err != nil {
			return fmt.Errorf("workload %s: %w", w.Name, err)
		}
		for _, vip := range s.VIPs {
			a, err := addressOf(vip)
			if err != nil {
				return fmt.Errorf("service %s: %w", host, err)
			}
			for port, target := range w.Services[host] {
				c.services[netip.AddrPortFrom(a, port)] = netip.AddrPortFrom(to, target)
				if s.Waypoint == nil {
					continue
				}
				through, err := addressOf(s.Waypoint.Destination)
				if err != nil {
					return fmt.Errorf("waypoint of service %s: %w", host, err)
				}
				c.waypoints[netip.AddrPortFrom(a, port)] = netip.AddrPortFrom(through, s.Waypoint.Port)
			}
		}
	}
	return nil
}

// addressOf is the address of "network/address".
func addressOf(text string) (netip.Addr, error) {
	return netip.ParseAddr(text[strings.LastIndexByte(text, '/')+1:])
}

func identity(w ambient.Workload) string { return ambient.Identity(w.Namespace, w.ServiceAccount) }
