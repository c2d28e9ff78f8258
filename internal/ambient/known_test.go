package ambient

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"
)

// TestLacks: a service counts as known when what goes to it comes to its pod through the
// tunnel, and not before.
func TestLacks(t *testing.T) {
	const service = `{"vips": ["/10.96.64.1", "n1/fd00:96::1"], "endpoints": {"Kubernetes//Pod/ns/server": {"workloadUid": %q}}}`
	const pod = `{"uid": "Kubernetes//Pod/ns/server", "workloadIps": ["10.244.2.7", "fd00:244::7"], "protocol": %q}`
	const uid = "Kubernetes//Pod/ns/server"
	for _, c := range []struct{ services, workloads, service, want string }{
		{fmt.Sprintf(service, uid), fmt.Sprintf(pod, "HBONE"), "10.96.64.1", ""},
		{fmt.Sprintf(service, uid), fmt.Sprintf(pod, "HBONE"), "fd00:96::1", ""},
		{"", fmt.Sprintf(pod, "HBONE"), "10.96.64.1", "it does not know service 10.96.64.1"},
		{fmt.Sprintf(service, uid), fmt.Sprintf(pod, "HBONE"), "10.96.64.2", "it does not know service 10.96.64.2"},
		{fmt.Sprintf(service, uid), "", "10.96.64.1", "it does not know pod 10.244.2.7"},
		{fmt.Sprintf(service, uid), fmt.Sprintf(pod, "TCP"), "10.96.64.1", "it reaches pod 10.244.2.7 by TCP"},
		{fmt.Sprintf(service, "another"), fmt.Sprintf(pod, "HBONE"), "10.96.64.1", "pod 10.244.2.7 is no endpoint of service 10.96.64.1"},
	} {
		var k known
		if err := json.Unmarshal(fmt.Appendf(nil, `{"services": [%s], "workloads": [%s]}`, c.services, c.workloads), &k); err != nil {
			t.Fatal(err)
		}
		if got := k.lacks(netip.MustParseAddr(c.service), netip.MustParseAddr("10.244.2.7")); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
