package bench

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/result"
)

// environment looks at the machine and the build. What a machine does not tell
// stays empty.
func environment() result.Environment {
	cpu := readText("/proc/cpuinfo")
	e := result.Environment{
		Kernel:       kernelRelease(),
		CPU:          field(cpu, "model name"),
		Cores:        runtime.NumCPU(),
		Governor:     readText("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
		Clocksource:  readText("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
		MemoryBytes:  memoryBytes(),
		Hypervisor:   strings.Contains(field(cpu, "flags")+" ", " hypervisor "),
		LoadAverage:  readText("/proc/loadavg"),
		Congestion:   readText("/proc/sys/net/ipv4/tcp_congestion_control"),
		ConntrackMax: readText("/proc/sys/net/netfilter/nf_conntrack_max"),
		Go:           runtime.Version(),
		Arch:         runtime.GOARCH,
		Mitigations:  mitigations(),
	}
	e.Revision, e.Modules = build()
	return e
}

func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "" // this machine does not have it
	}
	return strings.TrimSpace(string(b))
}

// field returns the first "name : value" of /proc/cpuinfo or /proc/meminfo.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func memoryBytes() uint64 {
	kb, _, _ := strings.Cut(field(readText("/proc/meminfo"), "MemTotal"), " ")
	n, err := strconv.ParseUint(kb, 10, 64)
	if err != nil {
		return 0
	}
	return n << 10
}

// mitigations lists the processor flaws that cost something here.
func mitigations() map[string]string {
	found := map[string]string{}
	files, err := filepath.Glob("/sys/devices/system/cpu/vulnerabilities/*")
	if err != nil {
		return nil // only for a bad pattern
	}
	for _, f := range files {
		if text := readText(f); text != "" && text != "Not affected" {
			found[filepath.Base(f)] = text
		}
	}
	return found
}

// build returns the revision and the libraries that take part in a measurement.
func build() (revision string, modules map[string]string) {
	revision, modules = "unknown", map[string]string{}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return revision, modules
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	for _, d := range info.Deps {
		switch d.Path {
		case "fortio.org/fortio", "github.com/cilium/ebpf", "gonum.org/v1/gonum", "golang.org/x/perf":
			modules[d.Path] = d.Version
		}
	}
	return revision + dirty, modules
}
