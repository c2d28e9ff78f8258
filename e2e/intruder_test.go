package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/internal/traffic"
	"github.com/duomesh/duomesh/netsim"
)

// nobody is the user of the intruder.
const nobody = 65534

// intruderEnv makes this test binary play the intruder; its value is the
// directory of the engine's pins. mapEnv is the number of the map "managed".
const (
	intruderEnv = "DUOMESH_E2E_INTRUDER"
	mapEnv      = "DUOMESH_E2E_MAP"
)

func intruding() bool { return os.Getenv(intruderEnv) != "" }

// attempt is one thing that an unprivileged process in a pod tried.
type attempt struct {
	What string
	// Refused is the error it got; empty means that it got through.
	Refused string
	// Rights is set when the error says that rights are missing, and not that
	// there was nothing to reach.
	Rights bool
}

// intrude is the unprivileged process: it drops every privilege, tries, and
// prints one JSON line per attempt.
func intrude() int {
	for _, drop := range []func() error{
		func() error { return syscall.Setgroups(nil) },
		func() error { return syscall.Setgid(nobody) },
		func() error { return syscall.Setuid(nobody) },
	} {
		if err := drop(); err != nil {
			fmt.Fprintln(os.Stderr, "drop privileges:", err)
			return 1
		}
	}
	out := json.NewEncoder(os.Stdout)
	for _, a := range attempts(os.Getenv(intruderEnv)) {
		if err := out.Encode(a); err != nil {
			return 1
		}
	}
	return 0
}

// attempts is all that the intruder tries.
func attempts(pins string) []attempt {
	for _, port := range []int{929, 930} { // how Kmesh enrols and releases
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM} {
			// The connect itself may succeed or not: it must change nothing,
			// which the spec sees by the pod's traffic.
			_ = dial(kind, port)
		}
	}
	id, err := strconv.ParseUint(os.Getenv(mapEnv), 10, 32)
	if err != nil {
		return nil // the spec misses the attempts
	}
	all := reaches(pins, ebpf.MapID(id))
	all = append(all, newAttempt("remove the pins", os.Remove(filepath.Join(pins, "managed"))))
	for what, door := range doors(pins) {
		all = append(all, newAttempt(what, door()))
	}
	return all
}

// reaches are the ways to the engine that only missing rights can shut: the
// control walks them as root.
func reaches(pins string, managed ebpf.MapID) []attempt {
	_, byID := ebpf.NewMapFromID(managed)
	_, list := ebpf.MapGetNextID(0)
	_, made := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 8, ValueSize: 8, MaxEntries: 1})
	_, pinned := ebpf.LoadPinnedMap(filepath.Join(pins, "managed"), nil)
	_, read := os.ReadDir(pins)
	_, raw := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP)
	return []attempt{
		newAttempt("open the map of managed pods by its number", byID),
		newAttempt("list maps", list),
		newAttempt("make a map", made),
		newAttempt("open the pinned map of managed pods", pinned),
		newAttempt("list the pins", read),
		newAttempt("open a raw socket", raw),
	}
}

func newAttempt(what string, err error) attempt {
	a := attempt{What: what}
	if err != nil {
		a.Refused = err.Error()
		a.Rights = errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES)
	}
	return a
}

// managedMap returns the number of the pinned map of managed pods.
func managedMap(pins string) (ebpf.MapID, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "managed"), nil)
	if err != nil {
		return 0, err
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return id, nil
}

func dial(kind, port int) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{0, 0, 0, 2}})
}

var _ = Describe("an unprivileged process in a pod", Label("netsim"), func() {
	It("cannot enrol, leave, or reach the engine", func(ctx SpecContext) {
		topology := scenario.Topology{Mesh: scenario.Duomesh, Nodes: []scenario.Node{{Name: "a", Pods: []scenario.Pod{
			{Name: "inside", Managed: true},
			{Name: "outside"},
			{Name: "server", Serve: []uint16{8080}},
		}}}}
		c := must(netsim.Open(ctx, netsim.Config{Agent: agentExe}, topology))
		DeferCleanup(c.Close)
		Expect(c.Apply(ctx, scenario.Objects{Services: []scenario.Service{{
			Name: "fortio", Family: scenario.IPv4, Ports: []scenario.Port{{Port: 80, Target: 8080}},
			Endpoints: []scenario.Endpoint{{Pod: "server", Weight: 1}},
		}}})).To(Succeed())
		vip := must(c.Resolve(scenario.Target{Service: "fortio", Port: 80, Family: scenario.IPv4}))
		expectReach := func() {
			GinkgoHelper()
			Expect(reach(ctx, c, "inside", vip)).To(BeEmpty(), "the managed pod has left the mesh")
			Expect(reach(ctx, c, "outside", vip)).To(Equal("ECONNREFUSED"), "the unmanaged pod has joined the mesh")
		}
		expectReach()
		pins := must(pinsOf(c))
		Expect(filepath.Join(pins, "managed")).To(BeAnExistingFile(), "the intruder is given the wrong directory")
		Expect(enrolSocketOf(pins)).To(BeAnExistingFile(), "the intruder is given the wrong directory")
		managed := must(managedMap(pins))
		for _, a := range reaches(pins, managed) {
			Expect(a.Refused).To(BeEmpty(), "the control, with every right: %s", a.What)
		}
		for _, pod := range []string{"inside", "outside"} {
			tried := intruder(ctx, c, pod, pins, managed)
			Expect(len(tried)).To(BeNumerically(">=", 12))
			for _, a := range tried[:len(reaches(pins, managed))] {
				Expect(a.Rights).To(BeTrue(), "%s: %s: %s", pod, a.What, a.Refused)
			}
			for _, a := range tried {
				Expect(a.Refused).NotTo(BeEmpty(), "%s: got through: %s", pod, a.What)
			}
		}
		expectReach()
	}, SpecTimeout(time.Minute))
})

// intruder runs the unprivileged process in a pod and returns what it tried.
func intruder(ctx SpecContext, c *netsim.Cluster, pod, pins string, managed ebpf.MapID) []attempt {
	GinkgoHelper()
	var out, errs bytes.Buffer
	p := must(c.Start(ctx, pod, netsim.Command{
		Argv: []string{"/proc/self/exe"}, Env: []string{intruderEnv + "=" + pins, fmt.Sprintf("%s=%d", mapEnv, managed)},
		Stdout: &out, Stderr: &errs,
	}))
	Expect(p.Wait()).To(Succeed(), errs.String())
	var tried []attempt
	for dec := json.NewDecoder(&out); dec.More(); {
		var a attempt
		Expect(dec.Decode(&a)).To(Succeed())
		tried = append(tried, a)
	}
	return tried
}

// reach makes one connection and returns the errno it ended with.
func reach(ctx SpecContext, c *netsim.Cluster, pod string, to netip.AddrPort) string {
	GinkgoHelper()
	conns := must(c.Exec(ctx, pod, traffic.Load{To: to, Connections: 1, Workers: 1}, nil))
	Expect(conns).To(HaveLen(1))
	return conns[0].Errno
}

func must[T any](v T, err error) T {
	GinkgoHelper()
	Expect(err).NotTo(HaveOccurred())
	return v
}
