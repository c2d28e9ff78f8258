package e2e

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gexec"

	"github.com/duomesh/duomesh/internal/kernel"
)

// ran is what a command did.
type ran struct {
	code           int
	stdout, stderr string
}

// duomesh runs the command in the checkout.
func duomesh(ctx context.Context, bin string, args ...string) ran {
	GinkgoHelper()
	return duomeshIn(ctx, must(filepath.Abs("..")), bin, nil, args...)
}

func duomeshIn(ctx context.Context, dir, bin string, attr *syscall.SysProcAttr, args ...string) ran {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &out, &errs, attr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		Expect(err).NotTo(HaveOccurred())
	}
	return ran{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

var _ = Describe("duomesh verify", Label("netsim"), Ordered, ContinueOnFailure, func() {
	var bin string
	BeforeAll(func(SpecContext) {
		bin = must(gexec.Build("github.com/duomesh/duomesh/cmd/duomesh"))
		DeferCleanup(gexec.CleanupBuildArtifacts)
	}, NodeTimeout(5*time.Minute))

	It("prints a table, writes JUnit and exits with 0", func(ctx SpecContext) {
		junit := filepath.Join(GinkgoT().TempDir(), "junit.xml")
		r := duomesh(ctx, bin, "verify", "-f", "samples/scenarios/canary.yaml", "--junit", junit)
		Expect(r.code).To(Equal(0), r.stdout+r.stderr)
		Expect(r.stdout).To(ContainSubstring("verdict pass: 1 passed"))
		var suite struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
		}
		Expect(xml.Unmarshal(must(os.ReadFile(junit)), &suite)).To(Succeed())
		Expect(suite.Tests).To(Equal(1))
		Expect(suite.Failures).To(BeZero())
	}, SpecTimeout(time.Minute))

	It("is inconclusive, exit 3, when the judge loses events", func(ctx SpecContext) {
		dir := GinkgoT().TempDir()
		r := duomesh(ctx, bin, "verify", "clusterip/weight/90-10", "--judge-ring", strconv.Itoa(os.Getpagesize()), "--evidence", dir)
		Expect(r.code).To(Equal(3), r.stdout+r.stderr)
		Expect(r.stdout).To(ContainSubstring("the judge missed nothing"))
		Expect(must(os.ReadDir(dir))).NotTo(BeEmpty(), "no evidence was kept")
	}, SpecTimeout(time.Minute))

	DescribeTable("refuses bad input with one sentence and exit 2", func(ctx SpecContext, want string, args ...string) {
		r := duomesh(ctx, bin, args...)
		Expect(r.code).To(Equal(2), r.stdout+r.stderr)
		Expect(r.stdout).To(BeEmpty())
		Expect(r.stderr).To(HavePrefix("duomesh: "))
		Expect(r.stderr).To(ContainSubstring(want))
		Expect(bytes.Count([]byte(r.stderr), []byte("\n"))).To(Equal(1), r.stderr)
	},
		Entry("unknown command", `"frobnicate"`, "frobnicate"),
		Entry("unknown scenario", "unknown scenario nope; the scenarios are: addresses/", "verify", "nope"),
		Entry("unreadable file", "no-such.yaml", "verify", "-f", "no-such.yaml"),
		Entry("wrong YAML", "LICENSE", "verify", "-f", "LICENSE"),
		Entry("nothing chosen", "--all", "verify"),
		Entry("two choices", "one of the three", "verify", "--all", "clusterip/weight/90-10"),
		Entry("unknown flag", "--frob", "verify", "--frob"),
		Entry("no repeat", "--repeat 0", "verify", "--all", "--repeat", "0"),
		Entry("no such directory for JUnit", "/proc/nope", "verify", "--all", "--junit", "/proc/nope/x.xml"),
		Entry("odd ring", "--judge-ring 5000", "verify", "--all", "--judge-ring", "5000"),
		Entry("unknown output", "--output xml", "verify", "--all", "-o", "xml"),
	)

	It("says in one sentence that root is needed", func(ctx SpecContext) {
		// The checkout may lie where nobody may go: the binary is copied to a
		// directory of its own that everybody may read.
		dir := must(os.MkdirTemp("", "duomesh-e2e-"))
		DeferCleanup(os.RemoveAll, dir)
		Expect(os.Chmod(dir, 0o755)).To(Succeed())
		open := filepath.Join(dir, "duomesh")
		Expect(os.WriteFile(open, must(os.ReadFile(bin)), 0o755)).To(Succeed())
		attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		r := duomeshIn(ctx, dir, open, attr, "verify", "--all")
		Expect(r.code).To(Equal(2))
		Expect(r.stderr).To(Equal("duomesh: root is needed to load BPF programs and make network namespaces: run it with sudo\n"))
	}, SpecTimeout(10*time.Second))

	// The mounts are hidden in a mount namespace of the command's own: the
	// machine keeps its own.
	DescribeTable("names what is lacking", func(ctx SpecContext, command, hide, want string) {
		script := `mount --make-rprivate / && ` + hide + ` && exec "$0" ` + command
		r := duomesh(ctx, must(exec.LookPath("unshare")), "-m", "sh", "-ec", script, bin)
		Expect(r.code).To(Equal(2), r.stdout+r.stderr)
		Expect(r.stderr).To(HavePrefix("duomesh: this " + want))
		Expect(bytes.Count([]byte(r.stderr), []byte("\n"))).To(Equal(1), r.stderr)
	},
		Entry("no cgroup2", "verify --all", "umount -l "+cgroup2(), "machine lacks a mounted cgroup v2"),
		Entry("no BTF", "verify --all", "mount -t tmpfs none /sys/kernel/btf", "kernel lacks BTF"),
		Entry("no cgroup2 for the probe", "probe --timeout 1s", "umount -l "+cgroup2(), "machine lacks a mounted cgroup v2"),
		Entry("no BTF for the probe", "probe --timeout 1s", "mount -t tmpfs none /sys/kernel/btf", "kernel lacks BTF"),
	)
})

// cgroup2 is the machine's mount point, for entries that are built before any
// spec runs; empty where there is none, and then no spec runs.
func cgroup2() string {
	dir, err := kernel.Cgroup2()
	if err != nil {
		return ""
	}
	return dir
}
