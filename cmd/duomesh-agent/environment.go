package main

import (
	"net/netip"
	"regexp"
)

// The forms of what the environment says, as Kubernetes and istiod know them.
var (
	dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)
	word    = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
)

// variable is one that the agent reads.
type variable struct {
	name string
	form *regexp.Regexp
	want string
}

var variables = []variable{
	{"NODE_NAME", dnsName, "the name of a Kubernetes node"},
	{"POD_NAME", dnsName, "the name of a pod"},
	{"POD_NAMESPACE", dnsName, "the name of a namespace"},
	{"SERVICE_ACCOUNT", dnsName, "the name of a ServiceAccount"},
	{"CLUSTER_ID", word, "letters, digits, - _ and ."},
	{"MESH_ID", word, "letters, digits, - _ and ."},
	{"ISTIO_META_NETWORK", word, "letters, digits, - _ and ."},
}

// checkEnvironment refuses values that make no sense: istiod would not say so, or
// only in its own log.
func checkEnvironment(env func(string) string) error {
	for _, v := range variables {
		if value := env(v.name); value != "" && (!v.form.MatchString(value) || len(value) > 253) {
			return usagef("%s=%s: want %s", v.name, value, v.want)
		}
	}
	if ip := env("INSTANCE_IP"); ip != "" {
		if a, err := netip.ParseAddr(ip); err != nil || a.IsUnspecified() || a.Zone() != "" {
			return usagef("INSTANCE_IP=%s: want the IP address of the pod", ip)
		}
	}
	return nil
}
