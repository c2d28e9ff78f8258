package main

import (
	"net/netip"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// word is the form of the names that istiod's operators give.
var word = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)

// The forms of what the environment says, as Kubernetes and istiod know them.
func isSubdomain(s string) bool { return len(validation.IsDNS1123Subdomain(s)) == 0 }
func isLabel(s string) bool     { return len(validation.IsDNS1123Label(s)) == 0 }
func isWord(s string) bool      { return word.MatchString(s) && len(s) <= 253 }

// isDNSName reports whether a host can have the name; one with a dot at its end is meant
// as it stands. Names of containers may have an underscore, and capitals mean nothing.
func isDNSName(s string) bool {
	return isSubdomain(strings.ToLower(strings.ReplaceAll(strings.TrimSuffix(s, "."), "_", "-")))
}

// variable is one that the agent reads.
type variable struct {
	name string
	is   func(string) bool
	want string
}

const wantNode = "the name of a Kubernetes node"

var variables = []variable{
	{"NODE_NAME", isSubdomain, wantNode},
	{"POD_NAME", isSubdomain, "the name of a pod"},
	{"POD_NAMESPACE", isLabel, "the name of a namespace"},
	{"SERVICE_ACCOUNT", isSubdomain, "the name of a ServiceAccount"},
	{"CLUSTER_ID", isWord, "letters, digits, - _ and ."},
	{"MESH_ID", isWord, "letters, digits, - _ and ."},
	{"ISTIO_META_NETWORK", isWord, "letters, digits, - _ and ."},
}

// checkEnvironment refuses values that make no sense: istiod would not say so, or
// only in its own log.
func checkEnvironment(env func(string) string) error {
	for _, v := range variables {
		if value := env(v.name); value != "" && !v.is(value) {
			return usagef("%s=%s: want %s", v.name, value, v.want)
		}
	}
	if ip := env("INSTANCE_IP"); ip != "" {
		if a, err := netip.ParseAddr(ip); err != nil || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return usagef("INSTANCE_IP=%s: want the IP address of the pod", ip)
		}
	}
	return nil
}
