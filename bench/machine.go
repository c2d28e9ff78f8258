package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of /proc/stat: USER_HZ is 100 on every architecture that
// this program is built for (proc_stat(5)).
const tick = 10 * time.Millisecond

// idleTime is what the processors of this machine have not worked since boot.
type idleTime struct {
	idle  time.Duration // idle and waiting for I/O, all processors
	steal time.Duration // taken by the hypervisor
	cores int
}

func readIdle() (idleTime, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return idleTime{}, fmt.Errorf("read processor times: %w", err)
	}
	return parseIdle(string(b))
}

func parseIdle(stat string) (idleTime, error) {
	var t idleTime
	for line := range strings.Lines(stat) {
		f := strings.Fields(line)
		if len(f) < 9 || !strings.HasPrefix(f[0], "cpu") {
			continue
		}
		if f[0] != "cpu" {
			t.cores++
			continue
		}
		for column, into := range map[int]*time.Duration{4: &t.idle, 5: &t.idle, 8: &t.steal} {
			n, err := strconv.ParseInt(f[column], 10, 64)
			if err != nil {
				return t, fmt.Errorf("read processor times: column %d of /proc/stat: %w", column, err)
			}
			*into += time.Duration(n) * tick
		}
	}
	if t.cores == 0 {
		return t, fmt.Errorf("read processor times: /proc/stat names no processor")
	}
	return t, nil
}

// idleLook is how long the machine is looked at unless a run says otherwise.
const idleLook = 3 * time.Second

// idleBusy looks at the machine for a while in which nothing of ours runs, and returns the
// share that was busy.
func idleBusy(ctx context.Context, look time.Duration) (float64, error) {
	before, err := readIdle()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := until(ctx, start.Add(look)); err != nil {
		return 0, err
	}
	after, err := readIdle()
	if err != nil {
		return 0, err
	}
	total := time.Since(start) * time.Duration(after.cores)
	return max(1-(after.idle-before.idle).Seconds()/total.Seconds(), 0), nil
}

// ownCPU is the processor time of this process, all its threads.
func ownCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("read own processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// cgroupCPU reads usage_usec of cpu.stat in a cgroup v2 directory, which is
// there without the cpu controller too (kernel: admin-guide/cgroup-v2).
func cgroupCPU(dir *os.File) (time.Duration, error) {
	fd, err := unix.Openat(int(dir.Fd()), "cpu.stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open cpu.stat of cgroup %s: %w", dir.Name(), err)
	}
	f := os.NewFile(uintptr(fd), dir.Name()+"/cpu.stat")
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return 0, fmt.Errorf("read cpu.stat of cgroup %s: %w", dir.Name(), err)
	}
	return parseUsage(b)
}

func parseUsage(stat []byte) (time.Duration, error) {
	for line := range bytes.Lines(stat) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if name != "usage_usec" {
			continue
		}
		us, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("usage_usec of cpu.stat: %w", err)
		}
		return time.Duration(us) * time.Microsecond, nil
	}
	return 0, fmt.Errorf("cpu.stat has no usage_usec")
}
