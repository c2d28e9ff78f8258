// Package e2e binds scenarios to worlds and judges: Ginkgo specs only.
package e2e

import (
	"fmt"
	"os"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/traffic"
)

func TestMain(m *testing.M) {
	if traffic.IsChild() {
		os.Exit(traffic.Main())
	}
	if intruding() {
		os.Exit(intrude())
	}
	if holdingCapability() {
		os.Exit(tryWithCapability())
	}
	os.Exit(m.Run())
}

func TestE2E(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.BTF, kernel.PacketHook)
	kernel.Expedite(t)
	RegisterFailHandler(Fail)
	RunSpecs(t, "duomesh on simulated pods")
}

// explain prints a result the way `duomesh verify` does.
func explain(r report.Result) string {
	s := fmt.Sprintf("%s: %s %s", r.Scenario, r.Verdict, r.Reason)
	for _, c := range r.Failed() {
		s += fmt.Sprintf("\n  %s: %s: %s", c.Verdict, c.Name, c.Detail)
	}
	return s
}
