package agent

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane"
	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

func names(pods []api.Pod) string {
	var all []string
	for _, p := range pods {
		name := p.Name
		if !p.Watched {
			name += "?"
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

func TestEnrolLeaveList(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	r.apply(web("one", "10.1.0.1"))
	a, b := g.pod(t, "a"), g.pod(t, "b")
	socket := r.cfg.EnrolSocket
	list := func() string {
		t.Helper()
		pods, err := api.List(deadline(t), socket)
		must(t, err)
		return names(pods)
	}
	if got := list(); got != "" {
		t.Errorf("pods before any: %s", got)
	}
	must(t, a.enrol(t, r))
	must(t, a.enrol(t, r)) // again
	must(t, b.enrol(t, r))
	if got := list(); got != "default/a default/b" || r.entries() != 2 {
		t.Errorf("pods are %s, %d entries", got, r.entries())
	}
	if got := a.exit(t, r); got != intent.Redirect {
		t.Errorf("an enrolled pod: %s", got)
	}
	must(t, api.Leave(deadline(t), socket, "default/a", nil))    // by name
	must(t, api.Leave(deadline(t), socket, "whatever", b.netns)) // by namespace
	if got := list(); got != "" || r.entries() != 0 {
		t.Errorf("pods are %s, %d entries", got, r.entries())
	}
	if got := a.exit(t, r); got != intent.PassUnmanaged {
		t.Errorf("a pod that has left: %s", got)
	}
	wantError(t, api.Leave(deadline(t), socket, "default/a", nil), `no pod "default/a" is enrolled`)
	must(t, api.Leave(deadline(t), socket, "default/a", a.netns)) // not enrolled: as declared
}

func TestEnrolRefuses(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p, other := g.pod(t, "p"), g.pod(t, "other")
	own, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	defer own.Close()
	mnt, err := os.Open("/proc/self/ns/mnt")
	must(t, err)
	defer mnt.Close()
	root, err := kernel.Cgroup2()
	must(t, err)
	outside, err := os.Open(root)
	must(t, err)
	defer outside.Close()
	must(t, p.enrol(t, r)) // the control
	must(t, api.Leave(deadline(t), r.cfg.EnrolSocket, "", p.netns))
	for _, c := range []struct {
		what          string
		name          string
		netns, cgroup *os.File
		want          string
	}{
		{"the host's network", p.name, own, p.cgroup, "never managed"},
		{"no network namespace", p.name, mnt, p.cgroup, "is not a network namespace"},
		{"a cgroup above the node's", p.name, p.netns, outside, "is not below the node's"},
		{"no cgroup", p.name, p.netns, own, "its cgroup"},
		{"a name without namespace", "p", p.netns, p.cgroup, "want namespace/name"},
		{"another path", p.name, p.netns, renamed(t, other.cgroup, p.cgroup.Name()), "is not the path of the cgroup"},
	} {
		t.Run(c.what, func(t *testing.T) {
			wantError(t, api.Enrol(deadline(t), r.cfg.EnrolSocket, c.name, c.netns, c.cgroup), c.want)
		})
	}
	if r.entries() != 0 || len(r.status().Pods) != 0 {
		t.Errorf("%d entries, pods %v: a refused one is managed", r.entries(), r.status().Pods)
	}
}

// renamed is a descriptor under another name.
func renamed(t *testing.T, f *os.File, name string) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	file := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { file.Close() })
	return file
}

func TestOnlyRootMayAsk(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	socket := r.cfg.EnrolSocket
	for path, mode := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), mode)
		}
	}
	_, err := api.List(t.Context(), socket)
	must(t, err) // the control
	wantError(t, asNobody(t, socket), "permission denied")
	// Somebody opened every door: the agent itself still refuses.
	for path := filepath.Dir(socket); strings.HasPrefix(path, filepath.Dir(g.dir)); path = filepath.Dir(path) {
		must(t, os.Chmod(path, 0o755))
	}
	must(t, os.Chmod(socket, 0o666))
	wantError(t, asNobody(t, socket), "user 65534 may not enrol: root alone may")
}

// asNobody connects on a thread of user nobody, which is thrown away, and
// returns what the agent says before it was asked anything.
func asNobody(t *testing.T, socket string) error {
	t.Helper()
	const nobody = 65534
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			done <- errno
			return
		}
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		answer := make([]byte, 1024)
		n, _ := c.Read(answer)
		done <- saidError(answer[:n])
	}()
	return <-done
}

type saidError []byte

// Error implements error.
func (e saidError) Error() string { return string(e) }

func TestEndOfPodIsSeen(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "p")
	stays := g.pod(t, "stays")
	must(t, p.enrol(t, r))
	must(t, stays.enrol(t, r))
	ino := r.status().Pods[0].Netns
	p.end(t)
	eventually(t, "the entry of a pod that ended goes", func() bool { return r.entries() == 1 })
	if got := names(r.status().Pods); got != "default/stays" {
		t.Errorf("pods are %s", got)
	}
	if held(t, ino) {
		t.Error("the agent still holds the namespace of a pod that has ended")
	}
}

// held reports whether this process has a descriptor of a network namespace.
func held(t *testing.T, inode uint64) bool {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Stat("/proc/self/fd/"+e.Name(), &st) == nil && st.Ino == inode {
			return true
		}
	}
	return false
}

func TestRecycledPodIsAnother(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	r.apply(web("one", "10.1.0.1"))
	old := g.pod(t, "p")
	must(t, old.enrol(t, r))
	if got := old.exit(t, r); got != intent.Redirect {
		t.Fatalf("the control: %s", got)
	}
	old.end(t)
	again := g.pod(t, "p")
	if got := again.exit(t, r); got != intent.PassUnmanaged {
		t.Errorf("a new pod of the same name: %s", got)
	}
	must(t, again.enrol(t, r))
	if got := again.exit(t, r); got != intent.Redirect {
		t.Errorf("enrolled: %s", got)
	}
	eventually(t, "one entry, one pod", func() bool { return r.entries() == 1 && len(r.status().Pods) == 1 })
}

func TestNextAgentKnowsThePods(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	living, bare, gone := g.pod(t, "living"), g.pod(t, "bare"), g.pod(t, "gone")
	living.live(t)
	for _, p := range []*somePod{living, bare, gone} {
		must(t, p.enrol(t, r))
	}
	r.apply(web("one", "10.1.0.1"))
	must(t, r.stop())
	gone.end(t)

	r = g.start(t)
	s := r.status()
	if got := names(s.Pods); got != "default/bare? default/living" || s.Unknown != 0 {
		t.Errorf("pods are %q, %d unknown", got, s.Unknown)
	}
	if got := living.exit(t, r); got != intent.Redirect {
		t.Errorf("before anything was applied: %s", got)
	}
	wantError(t, api.Leave(deadline(t), r.cfg.EnrolSocket, bare.name, nil), "give its network namespace")
	bare.live(t)
	eventually(t, "a pod that has a process now is watched", func() bool {
		return names(r.status().Pods) == "default/bare default/living"
	})
	if got := bare.exit(t, r); got != intent.Redirect {
		t.Errorf("a pod that was not watched: %s", got)
	}
	must(t, api.Leave(deadline(t), r.cfg.EnrolSocket, living.name, nil))
	must(t, api.Leave(deadline(t), r.cfg.EnrolSocket, bare.name, nil))
	if r.entries() != 0 {
		t.Errorf("%d entries, the pod that ended while no agent ran has left one", r.entries())
	}
}

// TestUnwatchedPodEnds: it had no process, so that the agent holds nothing of it.
func TestUnwatchedPodEnds(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	bare := g.pod(t, "bare")
	must(t, bare.enrol(t, r))
	must(t, r.stop())
	r = g.start(t)
	if got := names(r.status().Pods); got != "default/bare?" {
		t.Fatalf("pods are %q", got)
	}
	bare.end(t)
	eventually(t, "its entry goes with it", func() bool { return r.entries() == 0 && len(r.status().Pods) == 0 })
}

// TestKeptWithoutPins: the machine was started anew, the file is still there.
func TestKeptWithoutPins(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	bare := g.pod(t, "bare")
	must(t, bare.enrol(t, r))
	must(t, r.stop())
	must(t, dataplane.RemovePins(g.bpffs))
	r = g.start(t)
	if s := r.status(); len(s.Pods) != 0 || s.Unknown != 0 {
		t.Errorf("status names pods that the kernel does not have: %+v", s)
	}
}

func TestKeptFileOfAnotherVersion(t *testing.T) {
	g := newGround(t)
	must(t, g.start(t).stop())
	file := g.config(t).State
	for content, want := range map[string]string{
		`{"schema":"duomesh/enrolled","version":99}`: "version 99, this build reads",
		`nonsense`: "invalid character",
	} {
		must(t, os.WriteFile(file, []byte(content), 0o600))
		_, err := Open(g.config(t))
		wantError(t, err, want)
	}
}
