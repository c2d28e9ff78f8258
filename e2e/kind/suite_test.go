// Package kind holds the suite of a real cluster: kind, with an istiod and the agents
// in it. It runs by `make e2e`; with KUBECONFIG on a cluster that is there, whose nodes
// are on this machine.
package kind

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/kind"
)

// smoke labels the specs that CI runs each time.
const smoke = "smoke"

func TestMain(m *testing.M) {
	if traffic.IsChild() {
		os.Exit(traffic.Main())
	}
	os.Exit(m.Run())
}

func TestKind(t *testing.T) {
	if os.Getenv("DUOMESH_E2E") == "" {
		t.Skip("NOT RUN: a real cluster was not asked for (make e2e makes one)")
	}
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.BTF, kernel.PacketHook)
	kernel.Expedite(t)
	RegisterFailHandler(Fail)
	suite, reporter := GinkgoConfiguration()
	suite.Timeout = 0 // scripts/e2e.sh bounds the run
	RunSpecs(t, "duomesh on a cluster", suite, reporter)
}

var (
	// client speaks to the cluster of the suite.
	client *cluster.Client
	// dualStack: its pods have an address of each family.
	dualStack bool
)

var _ = BeforeSuite(func(ctx SpecContext) {
	var err error
	client, err = cluster.Where{}.Open()
	Expect(err).NotTo(HaveOccurred())
	Expect(client.Reach(ctx)).To(Succeed())
	nodes := must(client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}))
	_, elsewhere := here()
	for _, one := range elsewhere {
		say("not of this suite: %s", one)
		AddReportEntry("not of this suite", one)
	}
	dualStack = slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool { return len(n.Spec.PodCIDRs) > 1 })
})

// tag is that of the images, as make images gives it.
func tag() string {
	if t := os.Getenv("TAG"); t != "" {
		return t
	}
	return "0.1.0"
}

func config() kind.Config {
	c := kind.Config{
		Client: client, System: "duomesh-system", Image: "duomesh/netutils:" + tag(),
		Services: netip.MustParsePrefix("10.96.64.0/18"),
	}
	if dualStack {
		c.Services6 = netip.MustParsePrefix("fd00:10:96::4000/114")
	}
	return c
}

// evidence is where what did not pass is kept.
func evidence(what string) string {
	if out := os.Getenv("DUOMESH_OUT"); out != "" {
		return filepath.Join(out, what)
	}
	return ""
}

func must[T any](v T, err error) T {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
	return v
}

// explain prints a result the way `duomesh verify` does.
func explain(r report.Result) string {
	s := fmt.Sprintf("%s: %s %s", r.Scenario, r.Verdict, r.Reason)
	for _, c := range r.Failed() {
		s += fmt.Sprintf("\n  %s: %s: %s", c.Verdict, c.Name, c.Detail)
	}
	return s
}

// say prints a measurement for the reader of the run.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "kind: "+format+"\n", args...) }
