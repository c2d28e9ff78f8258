package istiod

import (
	"net/netip"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

const hostnameEntry = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-name}
spec:
  hosts: [by-name.example.com]
  addresses: [10.96.221.1]
  location: MESH_INTERNAL
  resolution: DNS
  ports: [{number: 80, name: tcp, protocol: TCP, targetPort: 8080}]
  endpoints: [{address: vm.example.com}]
`

// Where the entry is asked, and the name server that knows its endpoint.
var (
	hostnameVIP = netip.MustParseAddrPort("10.96.221.1:80")
	namesPod    = netip.MustParseAddr("10.245.1.53")
)

var _ = Describe("a ServiceEntry whose endpoint is a name", func() {
	It("leads to what the name means, and follows it", func(ctx SpecContext) {
		asked := hostnameVIP.String()
		t := fleet()
		t.Nodes[1].Pods = append(t.Nodes[1].Pods, scenario.Pod{Name: "names"})
		names := netsim.Addresses{IPv4: namesPod}
		resolv := filepath.Join(GinkgoT().TempDir(), "resolv.conf")
		Expect(os.WriteFile(resolv, []byte("nameserver "+namesPod.String()+"\n"), 0o644)).To(Succeed())
		c := must(openWith(ctx, netsim.Config{
			Pods:      map[string]netsim.Addresses{"names": names},
			AgentArgs: []string{"--resolv-conf", resolv},
		}, t))
		DeferCleanup(func() { Expect(c.Close()).To(Succeed()) })
		leadsTo := func(pod string) {
			GinkgoHelper()
			Expect(awaitRoutes(ctx, c, map[string]map[string]float64{asked: {pod + ":8080": 1}})).To(Succeed())
		}
		Expect(c.StartServers(ctx)).To(Succeed())
		first := startNames(ctx, c, podAt(c, "v2").Addr().String(), "53")
		apply(ctx, c, hostnameEntry)
		leadsTo("v2")
		Expect(reach(ctx, c, hostnameVIP)).To(BeEmpty())
		first.Stop(ctx)
		defer startNames(ctx, c, podAt(c, "v3").Addr().String(), "53").Stop(ctx)
		leadsTo("v3")
		Expect(reach(ctx, c, hostnameVIP)).To(BeEmpty())
	}, SpecTimeout(2*time.Minute))
})
