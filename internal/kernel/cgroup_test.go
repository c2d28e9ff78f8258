package kernel

import (
	"errors"
	"os"
	"strings"
	"testing"
)

func TestMountOf(t *testing.T) {
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
50 31 0:38 /docker/abc /mnt/part rw,relatime - cgroup2 cgroup2 rw
41 31 0:38 / /sys/fs/cgroup/uni\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw
`
	missing := errors.New("missing")
	got, err := mountOf(strings.NewReader(hybrid), "cgroup2", missing)
	if err != nil || got != "/sys/fs/cgroup/uni fied" {
		t.Errorf("got %q, %v; want the whole hierarchy, unescaped", got, err)
	}
	if _, err := mountOf(strings.NewReader(hybrid), "bpf", missing); !errors.Is(err, missing) {
		t.Errorf("absent file system: got %v, want %v", err, missing)
	}
}

func TestNetnsCookie(t *testing.T) {
	Require(t, Root)
	seen := map[uint64]bool{}
	for range 2 {
		ns, err := NewNetns()
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		cookie, err := NetnsCookie(ns)
		if err != nil {
			t.Fatal(err)
		}
		again, err := NetnsCookie(ns)
		if err != nil || again != cookie {
			t.Errorf("cookie is %d, then %d, %v", cookie, again, err)
		}
		seen[cookie] = true
	}
	if len(seen) != 2 {
		t.Errorf("two namespaces have one cookie: %v", seen)
	}
}

// fakeTB records how Require ends a test.
type fakeTB struct {
	testing.TB
	ended string
}

func (f *fakeTB) Helper()               {}
func (f *fakeTB) Skipf(string, ...any)  { f.ended += "skip " }
func (f *fakeTB) Fatalf(string, ...any) { f.ended += "fatal " }

func TestRequire(t *testing.T) {
	missing := Feature{Name: "warp", Probe: func() error { return ErrNoCgroup2 }}
	unclear := Feature{Name: "fog", Probe: func() error { return errors.New("?") }}
	for _, c := range []struct{ promise, want string }{
		{"", "skip fatal "}, {"root,warp", "fatal fatal "},
	} {
		t.Setenv(PromiseEnv, c.promise)
		tb := &fakeTB{TB: t}
		Require(tb, missing, unclear)
		if tb.ended != c.want {
			t.Errorf("promise %q: %s, want %s", c.promise, tb.ended, c.want)
		}
	}
}

func TestHostCgroup2(t *testing.T) {
	for name, c := range map[string]struct{ mountinfo, want string }{
		"the machine":      {"30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "/root/sys/fs/cgroup"},
		"both versions":    {"30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw", "/root/sys/fs/cgroup/unified"},
		"from a container": {"30 23 0:26 /../../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "/root/sys/fs/cgroup"},
		"a part of it":     {"30 23 0:26 /system.slice /mnt rw - cgroup2 cgroup2 rw", ""},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(dir+"/mountinfo", []byte(c.mountinfo+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := hostCgroup2(dir)
		if c.want == "" {
			if !errors.Is(err, ErrNoCgroup2) {
				t.Errorf("%s: %s, %v", name, got, err)
			}
			continue
		}
		if err != nil || got != dir+c.want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}
