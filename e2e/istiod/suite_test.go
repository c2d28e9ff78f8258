// Package istiod holds the suite of simulated pods under a real control plane: etcd,
// kube-apiserver and istiod. It runs by `make test-istiod`.
package istiod

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/dataplane/l7/envoy"
	"github.com/duomesh/duomesh/e2e/istiod/web"
	"github.com/duomesh/duomesh/internal/controlplane"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/netsim"
)

func TestMain(m *testing.M) {
	if traffic.IsChild() {
		os.Exit(traffic.Main())
	}
	if web.IsChild() {
		os.Exit(web.Main())
	}
	if child, is := nameChild(); is {
		if err := child(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// binaries are those that the environment names.
func binaries() controlplane.Binaries {
	return controlplane.Binaries{
		Etcd: os.Getenv("ETCD_BIN"), APIServer: os.Getenv("KUBE_APISERVER_BIN"),
		Istiod: os.Getenv("ISTIOD_BIN"), Istioctl: os.Getenv("ISTIOCTL_BIN"), GatewayCRDs: os.Getenv("GATEWAY_CRDS"),
	}
}

func TestIstiod(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.BTF, kernel.PacketHook)
	if err := binaries().Check(); err != nil {
		t.Skipf("NOT RUN: %v (make test-istiod builds them)", err)
	}
	kernel.Expedite(t)
	RegisterFailHandler(Fail)
	RunSpecs(t, "duomesh under a real istiod")
}

// plane is the one control plane of the suite, planeTook how long its start took;
// agentExe is the agent of every node, waypointExe what runs in waypoint pods.
var (
	plane       *netsim.ControlPlane
	planeTook   time.Duration
	agentExe    string
	waypointExe string
)

// debounce bounds how long istiod collects changes that follow each other.
const debounce = "PILOT_DEBOUNCE_MAX=1s"

var _ = BeforeSuite(func(ctx SpecContext) {
	agentExe, waypointExe = build(ctx, "duomesh-agent"), build(ctx, "duomesh-waypoint")
	start := time.Now()
	var err error
	plane, err = netsim.OpenControlPlane(ctx, netsim.ControlPlaneConfig{
		Binaries: binaries(), IstiodEnv: []string{debounce}, Logs: logs(),
	})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(plane.Close()).To(Succeed()) })
	planeTook = time.Since(start)
	say("control plane from nothing in %s: %s; istiod runs with %s", planeTook.Round(10*time.Millisecond), steps(plane), debounce)
}, NodeTimeout(6*time.Minute))

// logs is where the control plane's logs stay.
func logs() string {
	if out := os.Getenv("DUOMESH_OUT"); out != "" {
		return filepath.Join(out, "logs")
	}
	return GinkgoT().TempDir()
}

func steps(p *netsim.ControlPlane) string {
	var all []string
	for _, s := range p.Stack().Steps() {
		all = append(all, fmt.Sprintf("%s %s", s.Name, s.Took.Round(10*time.Millisecond)))
	}
	return strings.Join(all, ", ")
}

// say prints a measurement for the reader of the run.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "istiod: "+format+"\n", args...)
}

// build builds one of the commands.
func build(ctx context.Context, name string) string {
	GinkgoHelper()
	exe := filepath.Join(GinkgoT().TempDir(), name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", exe, "github.com/duomesh/duomesh/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	Expect(err).NotTo(HaveOccurred(), string(out))
	return exe
}

// findEnvoy is the Envoy of ENVOY_BIN, else the one that make tools has put into the
// cache; "" where there is none.
func findEnvoy() string { return envoy.Find(os.Getenv("ENVOY_BIN")) }

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
