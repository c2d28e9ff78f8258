package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/netsim"
)

// capabilityEnv makes this test binary a process of user nobody with one
// capability; its value is a capable in JSON.
const capabilityEnv = "DUOMESH_E2E_CAPABILITY"

// capable is what such a process is told.
type capable struct {
	Capability uintptr
	Pins       string
	VIP        netip.AddrPort
	// Cgroup is the pod's own directory.
	Cgroup string
}

// could is what it got through with, by name; false: it was refused.
type could struct {
	Can     map[string]bool
	Refused map[string]string
}

// noCapability is none at all.
const noCapability = 63

func holdingCapability() bool { return os.Getenv(capabilityEnv) != "" }

// tryWithCapability does everything on one thread, which alone has given up its
// other privileges.
func tryWithCapability() int {
	var c capable
	if err := json.Unmarshal([]byte(os.Getenv(capabilityEnv)), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	runtime.LockOSThread()
	if err := keepOnly(c.Capability); err != nil {
		fmt.Fprintln(os.Stderr, "drop privileges:", err)
		return 1
	}
	done := could{map[string]bool{}, map[string]string{}}
	for what, try := range c.attempts() {
		err := try()
		if done.Can[what] = err == nil; err != nil {
			done.Refused[what] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(done); err != nil {
		return 1
	}
	return 0
}

// keepOnly makes the calling thread nobody's, with one capability
// (capabilities(7)). The raw calls concern the thread alone.
func keepOnly(capability uintptr) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, call := range []struct{ number, a, b, c uintptr }{
		{unix.SYS_SETGROUPS, 0, 0, 0},
		{unix.SYS_SETRESGID, nobody, nobody, nobody},
		{unix.SYS_SETRESUID, nobody, nobody, nobody},
	} {
		if _, _, errno := unix.RawSyscall(call.number, call.a, call.b, call.c); errno != 0 {
			return errno
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if capability != noCapability {
		data[0].Effective, data[0].Permitted = 1<<capability, 1<<capability
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (c capable) attempts() map[string]func() error {
	all := doors(c.Pins)
	all["send a raw packet to the service address"] = func() error { return rawSYN(c.VIP) }
	all["make the service address the pod's own"] = func() error {
		lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}
		addr, err := netlink.ParseAddr(c.VIP.Addr().String() + "/32")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, addr)
	}
	all["list the programs of its cgroup"] = func() error {
		dir, err := os.Open(c.Cgroup)
		if err != nil {
			return err
		}
		defer dir.Close()
		_, err = link.QueryPrograms(link.QueryOptions{
			Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInet4Connect, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE,
		})
		return err
	}
	all["open a program by its number"] = func() error {
		_, err := ebpf.NewProgramFromID(1)
		return err
	}
	all["open the map of managed pods"] = func() error {
		_, err := ebpf.LoadPinnedMap(filepath.Join(c.Pins, "managed"), nil)
		return err
	}
	all["detach the programs of its cgroup"] = func() error { return detachAny(c.Cgroup) }
	all["load a program"] = func() error {
		_, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
			License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
		return err
	}
	return all
}

// rawSYN sends a SYN that no connect() has asked for.
func rawSYN(to netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	segment := make([]byte, 20) // RFC 9293, 3.1; the checksum does not matter here
	binary.BigEndian.PutUint16(segment[0:], 40000)
	binary.BigEndian.PutUint16(segment[2:], to.Port())
	segment[12], segment[13] = 5<<4, 1<<1
	return unix.Sendto(fd, segment, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
}

// detachAny asks the kernel to detach whatever is attached (BPF_PROG_DETACH
// without a program).
func detachAny(cgroup string) error {
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	attr := struct {
		target, program, attach, flags, replace uint32
	}{target: uint32(dir.Fd()), attach: uint32(ebpf.AttachCGroupInet4Connect)}
	const progDetach = 9
	_, _, errno := unix.RawSyscall(unix.SYS_BPF, progDetach, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return errno
	}
	return nil
}

var _ = Describe("a process in a pod with one capability", Label("netsim"), func() {
	DescribeTable("can do what docs/security.md says, and no more", func(ctx SpecContext, capability int, can ...string) {
		c := agentCluster(ctx)
		pins, pod := must(pinsOf(c)), must(c.Pod("client"))
		asked := capable{uintptr(capability), pins, vipOf(c), pod.Cgroup.Name()}
		var out, errs bytes.Buffer
		p := must(c.Start(ctx, "client", netsim.Command{
			Argv: []string{"/proc/self/exe"}, Env: []string{capabilityEnv + "=" + string(must(json.Marshal(asked)))},
			Stdout: &out, Stderr: &errs,
		}))
		Expect(p.Wait()).To(Succeed(), errs.String())
		var got could
		Expect(json.Unmarshal(out.Bytes(), &got)).To(Succeed())
		var did []string
		for what, is := range got.Can {
			if is {
				did = append(did, what)
			}
		}
		Expect(did).To(ConsistOf(can), "refused: %v", got.Refused)
		Expect(len(got.Can)).To(BeNumerically(">=", 12))
		// Whatever it did, a connect() of the pod is decided as before.
		Expect(reach(ctx, c, "client", asked.VIP)).To(BeEmpty())
		Expect(names(statusOf(ctx, c).Pods)).To(Equal([]string{"default/client"}))
	},
		Entry("none: the control", noCapability, SpecTimeout(time.Minute)),
		Entry("CAP_NET_RAW", unix.CAP_NET_RAW, "send a raw packet to the service address", SpecTimeout(time.Minute)),
		Entry("CAP_NET_ADMIN", unix.CAP_NET_ADMIN,
			"make the service address the pod's own", "list the programs of its cgroup", SpecTimeout(time.Minute)),
	)
})

var _ = Describe("a network namespace that a pod has made for itself", Label("netsim"), func() {
	It("is not in the mesh, and reaches nothing", func(ctx SpecContext) {
		c := agentCluster(ctx)
		vip := vipOf(c)
		knock := fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", vip.Addr(), vip.Port())
		try := func(argv ...string) (string, error) {
			var errs bytes.Buffer
			p := must(c.Start(ctx, "client", netsim.Command{Argv: append(argv, "bash", "-c", knock), Stderr: &errs}))
			err := p.Wait()
			return errs.String(), err
		}
		_, err := try("env")
		Expect(err).NotTo(HaveOccurred(), "the control: from the pod's own namespace")
		said, err := try("unshare", "--net")
		Expect(err).To(HaveOccurred())
		Expect(said).To(ContainSubstring("Network is unreachable"))
		client := api.NewClient(*c.State().Nodes[0].Admin)
		defer client.Close()
		exits := must(client.Exits(ctx))
		Expect(exits.Exits).To(HaveKeyWithValue("pass-unmanaged", BeNumerically(">=", 1)))
	}, SpecTimeout(time.Minute))
})
