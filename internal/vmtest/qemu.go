package vmtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// Accel is how QEMU runs a machine's instructions.
type Accel string

// The ways to run: by the processor's virtualisation, or by translation, which
// is 7 to 30 times slower.
const (
	KVM Accel = "kvm"
	TCG Accel = "tcg"
)

const qemu = "qemu-system-x86_64"

// Machine is one virtual machine, to be run once.
type Machine struct {
	Tree Tree
	// Initramfs is the path of its file system.
	Initramfs string
	Accel     Accel
	// MemoryMB is its memory in MiB.
	MemoryMB int
	// CPUs are its processors; zero is 2.
	CPUs int
	// Timeout is the longest that it may live.
	Timeout time.Duration
	// Dir gets console.log and records.jsonl.
	Dir string
	// Args are added to the kernel's command line.
	Args string
}

// DeathError says that a machine ended in another way than its init said.
type DeathError struct {
	// Reason is one clause: "the kernel panicked".
	Reason string
	// Console is the path of what the kernel printed, Tail its end.
	Console, Tail string
}

// Error implements error.
func (d *DeathError) Error() string {
	return fmt.Sprintf("%s; the end of its console (%s):\n%s", d.Reason, d.Console, d.Tail)
}

// Life is what is left of a machine.
type Life struct {
	Records []guest.Record
	// CPU is the time that it took of the host's processors.
	CPU time.Duration
}

// Run boots the machine and returns when it has ended. A machine that did not say that
// it was done is a DeathError; the records that came before are returned with it.
func (m Machine) Run(ctx context.Context) (Life, error) {
	var life Life
	console, records := filepath.Join(m.Dir, "console.log"), filepath.Join(m.Dir, "records.jsonl")
	for _, path := range []string{console, records} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return life, fmt.Errorf("clear old evidence: %w", err)
		}
	}
	limited, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	cmd := exec.CommandContext(limited, qemu, m.qemuArgs(console, records)...)
	// Its own group: an interrupt of the terminal is passed on by cancelling.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stderr = &said
	runErr := cmd.Run()
	if err := ctx.Err(); err != nil {
		return life, fmt.Errorf("run machine: %w", err)
	}
	if cmd.ProcessState == nil {
		return life, fmt.Errorf("start %s: %w", qemu, runErr)
	}
	var readErr error
	life.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	life.Records, readErr = readRecords(records)
	if reason := m.death(cmd.ProcessState, limited.Err(), life.Records, readErr, console); reason != "" {
		if text := bytes.TrimSpace(said.Bytes()); len(text) > 0 {
			reason += "; QEMU says: " + string(bytes.ReplaceAll(text, []byte("\n"), []byte("; ")))
		}
		return life, &DeathError{Reason: reason, Console: console, Tail: tail(console, 40)}
	}
	return life, nil
}

// translated is a processor without what only makes a translated machine slower: a
// fifth level of page tables, access checks that flush at each system call, and
// string instructions that are fast in silicon alone.
const translated = "max,-la57,-smap,-erms"

// commandLine is the kernel's. A panic reboots at once, and -no-reboot makes that the
// end. So does a processor that runs the kernel for two minutes without a pause: a busy
// host may have taken most of them. A machine that gets little of such a host has ticks
// too late for the timer's check. Grace periods are hurried: programs come and go all
// the time, and waiting is most of it.
const commandLine = "console=ttyS0 loglevel=6 panic=-1 oops=panic softlockup_panic=1 watchdog_thresh=60 " +
	"no_timer_check mitigations=off init_on_alloc=0 audit=0 rcupdate.rcu_expedited=1"

func (m Machine) qemuArgs(console, records string) []string {
	cpu, accel := translated, "tcg,thread=single"
	if m.Accel == KVM {
		cpu, accel = "host", "kvm"
	}
	return []string{
		"-accel", accel, "-cpu", cpu, "-smp", strconv.Itoa(cmp.Or(m.CPUs, 2)), "-m", strconv.Itoa(m.MemoryMB),
		"-display", "none", "-monitor", "none", "-no-reboot", "-nodefaults", "-net", "none",
		"-kernel", m.Tree.Image, "-initrd", m.Initramfs,
		"-append", commandLine + " " + m.Args,
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=1", guest.ExitPort),
		"-serial", "file:" + console, "-serial", "file:" + records,
	}
}

// death says in what way a machine ended other than as it should: done was said,
// and init ended it by the exit port. Empty: it ended well.
func (m Machine) death(state *os.ProcessState, timeout error, records []guest.Record, readErr error, console string) string {
	const endedWell = 0<<1 | 1 // what QEMU makes of init's exit code 0
	switch {
	case timeout != nil:
		return neverEnded + m.Timeout.String() + during(records)
	case panicked(console):
		return "the kernel panicked" + during(records)
	case readErr != nil:
		return readErr.Error()
	}
	for _, r := range records {
		if r.Kind == guest.Fault {
			return "init failed: " + r.Data
		}
	}
	if n := len(records); n == 0 || records[n-1].Kind != guest.Done {
		return endedEarly + during(records)
	}
	if code := state.ExitCode(); code != endedWell {
		return fmt.Sprintf("it said that it was done, and QEMU ended with status %d, want %d", code, endedWell)
	}
	if what := warned(console); what != "" {
		return "it did everything, and the kernel warned: " + what
	}
	return ""
}

// during names the run that was under way.
func during(records []guest.Record) string {
	run := ""
	for _, r := range records {
		switch r.Kind {
		case guest.Start:
			run = r.Name
		case guest.End:
			run = ""
		}
	}
	if run == "" {
		return ""
	}
	return ", while it ran " + run
}

// panicked looks for the kernel's own words (kernel/panic.c).
func panicked(console string) bool {
	text, err := os.ReadFile(console)
	return err == nil && bytes.Contains(text, []byte("Kernel panic - not syncing"))
}

// warned is the kernel's first warning (WARN_ON), or "".
func warned(console string) string {
	text, err := os.ReadFile(console)
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(text), "------------[ cut here ]------")
	line, _, _ := strings.Cut(strings.TrimSpace(after), "\n")
	return strings.TrimSpace(line)
}

// tail returns the last lines of a console.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return lastLines(strings.ReplaceAll(string(text), "\r", ""), lines)
}

func lastLines(text string, lines int) string {
	text = strings.TrimSpace(text)
	at := len(text)
	for ; lines > 0 && at >= 0; lines-- {
		at = strings.LastIndexByte(text[:at], '\n')
	}
	return text[at+1:]
}
