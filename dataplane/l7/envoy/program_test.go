package envoy

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An Envoy that cannot be started is told from one that is not there: what is missing is
// named, to whoever asks for its version and to the process that would run it.
func TestWhyEnvoyDoesNotStart(t *testing.T) {
	const missing = "its interpreter /lib/ld-other.so.9 is not there"
	dir := t.TempDir()
	for name, c := range map[string]struct{ program, says string }{
		"elf":     {interpreted(t, "/lib/ld-other.so.9"), missing},
		"script":  {"#!/lib/ld-other.so.9 -x\n", missing},
		"words":   {"#!/bin/sh\necho version GLIBC_2.99 not found >&2\necho more\nexit 1\n", "does not run here: version GLIBC_2.99 not found"},
		"nothing": {"", "no such file or directory"},
	} {
		path := filepath.Join(dir, name)
		if c.program != "" {
			writeFile(t, path, c.program, 0o755)
		}
		_, err := Version(t.Context(), path)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: Version: %v, want one line with %q", name, err, c.says)
		}
		if strings.Contains(c.says, "does not run here") {
			continue // it starts
		}
		ctx, cancel := context.WithCancel(t.Context())
		p := Start(ctx, Config{Path: path, Log: slog.New(slog.DiscardHandler)})
		if err := p.Err(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: Start: %v, want %q", name, err, c.says)
		}
		cancel()
	}
}

// What runs and says no version is no Envoy.
func TestVersionOfAnEnvoy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "envoy")
	writeFile(t, path, saysVersion, 0o755)
	if v, err := Version(t.Context(), path); err != nil || v != "1/1.40.0/Clean/RELEASE/BoringSSL" {
		t.Errorf("version %q, %v", v, err)
	}
	other := filepath.Join(t.TempDir(), "other")
	writeFile(t, other, "#!/bin/sh\necho nginx 1\n", 0o755)
	if v, err := Version(t.Context(), other); err == nil || !strings.Contains(err.Error(), "is no Envoy") {
		t.Errorf("version %q, %v of what is no Envoy", v, err)
	}
}

// interpreted is a program of this machine's kind that names its interpreter.
func interpreted(t *testing.T, by string) string {
	t.Helper()
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(machine(t)), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64,
	}
	at := uint64(64 + 2*56)
	name := append([]byte(by), 0)
	progs := []elf.Prog64{
		{Type: uint32(elf.PT_INTERP), Flags: uint32(elf.PF_R), Off: at, Filesz: uint64(len(name)), Memsz: uint64(len(name)), Align: 1},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Filesz: at, Memsz: at, Align: 4096},
	}
	var out bytes.Buffer
	for _, part := range []any{head, progs, name} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// machine is this one's, as the test's own program says.
func machine(t *testing.T) elf.Machine {
	t.Helper()
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return f.Machine
}

// An Envoy that ends before it has answered is quoted once, in a line; one that runs is in
// a process group of its own, which a terminal's signals do not reach.
func TestEnvoyOfItsOwnGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "envoy")
	writeFile(t, path, "#!/bin/sh\necho; echo hello from fake; echo; exit 3\n", 0o755)
	failed := Start(t.Context(), Config{Path: path, Log: slog.New(slog.DiscardHandler)})
	if err := failed.Err(); err == nil || err.Error() != "Envoy does not start: exit status 3: hello from fake" {
		t.Errorf("it says %v", err)
	}
	other := filepath.Join(t.TempDir(), "envoy")
	writeFile(t, other, "#!/bin/sh\nexec sleep 60\n", 0o755)
	ctx, cancel := context.WithCancel(t.Context())
	p := Start(ctx, Config{Path: other, Admin: filepath.Join(t.TempDir(), "none"), Log: slog.New(slog.DiscardHandler)})
	defer func() { <-p.Done() }()
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for p.State().PID == 0 {
		<-tick.C
	}
	pid := p.State().PID
	if group, err := unix.Getpgid(pid); err != nil || group != pid {
		t.Errorf("process %d is of group %d, %v", pid, group, err)
	}
}
