package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/internal/istiod"
)

// istioVersion is the version of Istio's proxy that this program stands in for, where
// ISTIO_META_ISTIO_VERSION says no other: istiod sends what that one understands.
const istioVersion = "1.31.0"

// podInfo is where istiod's template mounts the pod's labels and annotations.
const podInfo = "/etc/istio/pod"

// The labels by which istiod finds the Gateway of a pod.
const (
	gatewayLabel = "gateway.networking.k8s.io/gateway-name"
	managedLabel = "gateway.istio.io/managed"
	managedMesh  = "istio.io-mesh-controller"
)

func (f flags) xdsControl(s surroundings, c *l7.Config, given, address string) (l7.Control, error) {
	who, name, err := f.identity(s)
	if err != nil {
		return nil, err
	}
	c.Name = name
	if c.Node, err = who.Proto(); err != nil {
		return nil, err
	}
	c.Node.Cluster = f.istio.serviceCluster
	if c.Node.Cluster == "" {
		c.Node.Cluster = who.Pod + "." + who.Namespace
	}
	cluster, _ := who.Metadata["CLUSTER_ID"].(string)
	return l7.NewIstiod(*c, istiod.Server{
		Address: address, Plaintext: f.xds.plain, Name: f.xds.name, Roots: f.xds.roots, Token: f.xds.token, Cluster: cluster,
	}, given)
}

// identity is the waypoint's pod as istiod must know it; name is its Gateway's.
func (f flags) identity(s surroundings) (who istiod.Identity, name string, err error) {
	for _, needed := range []string{"POD_NAME", "POD_NAMESPACE", "INSTANCE_IP"} {
		if s.env(needed) == "" {
			return who, "", usagef("%s is not set: istiod must be told who asks", needed)
		}
	}
	if _, err := netip.ParseAddr(s.env("INSTANCE_IP")); err != nil {
		return who, "", usagef("INSTANCE_IP=%s is no address of a pod: %w", s.env("INSTANCE_IP"), err)
	}
	who = istiod.Identity{
		Kind: "waypoint", IP: s.env("INSTANCE_IP"), Pod: s.env("POD_NAME"), Namespace: s.env("POD_NAMESPACE"),
		Node: f.node, Domain: f.istio.clusterDomain(),
	}
	labels, err := readPairs(filepath.Join(podInfo, "labels"))
	if err != nil {
		return who, "", err
	}
	gateway := labels[gatewayLabel]
	if gateway == "" && f.name != "" {
		_, gateway, _ = strings.Cut(f.name, "/")
	}
	if gateway == "" {
		return who, "", usagef("no Gateway: the pod has no label %s, and --name NAMESPACE/NAME is not given", gatewayLabel)
	}
	if labels == nil {
		labels = map[string]string{}
	}
	labels[gatewayLabel] = gateway
	if labels[managedLabel] == "" {
		labels[managedLabel] = managedMesh
	}
	who.Metadata, err = metadata(s, who, labels)
	return who, who.Namespace + "/" + gateway, err
}

// metadata is what istiod's template puts into ISTIO_META_*, and what the rest of the
// environment says.
func metadata(s surroundings, who istiod.Identity, labels map[string]string) (map[string]any, error) {
	proxy, err := proxyConfig(s)
	if err != nil {
		return nil, err
	}
	addresses, err := ownAddresses(s, who.IP)
	if err != nil {
		return nil, err
	}
	m := map[string]any{
		"ISTIO_VERSION": istioVersion, "ENABLE_HBONE": "true", "NAME": who.Pod, "INSTANCE_IPS": strings.Join(addresses, ","),
		"LABELS": anyMap(labels), "PROXY_CONFIG": proxy,
	}
	if account := s.env("SERVICE_ACCOUNT"); account != "" {
		m["SERVICE_ACCOUNT"] = account
	}
	for _, pair := range s.environ {
		name, value, _ := strings.Cut(pair, "=")
		if key, ok := strings.CutPrefix(name, "ISTIO_META_"); ok && value != "" {
			m[key] = value
		}
	}
	return m, nil
}

// ownAddresses are those of the pod, the one that Kubernetes names first: to a proxy that
// does not say that it has both families istiod sends the services of one alone.
func ownAddresses(s surroundings, first string) ([]string, error) {
	all, found := []string{first}, []net.Addr(nil)
	if s.addresses != nil {
		var err error
		if found, err = s.addresses(); err != nil {
			return nil, fmt.Errorf("list the pod's addresses: %w", err)
		}
	}
	for _, a := range found {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().IsGlobalUnicast() || slices.Contains(all, prefix.Addr().String()) {
			continue
		}
		all = append(all, prefix.Addr().String())
	}
	return all, nil
}

func anyMap(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

// readPairs reads a file of Kubernetes' downward API: key="value" lines. One that is
// not there has none.
func readPairs(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("labels and annotations of the pod: %w", err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, quoted, _ := strings.Cut(strings.TrimSpace(line), "=")
		if value, err := strconv.Unquote(quoted); err == nil {
			out[key] = value
		}
	}
	return out, nil
}
