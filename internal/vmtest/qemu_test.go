package vmtest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// A machine has ended well only where init said so last, by the exit port, and the kernel
// had nothing to say. What it sent before does not help it.
func TestDeath(t *testing.T) {
	boot, start := guest.Record{Kind: guest.Boot}, guest.Record{Kind: guest.Start, Name: "pkg"}
	end, done := guest.Record{Kind: guest.End, Name: "pkg"}, guest.Record{Kind: guest.Done}
	all := []guest.Record{boot, start, end, done}
	for name, c := range map[string]struct {
		console string
		records []guest.Record
		readErr error
		timeout error
		status  int
		says    string
	}{
		"well":      {records: all, status: 1},
		"panic":     {console: "[ 1.0] Kernel panic - not syncing: Fatal exception", records: all, status: 1, says: "the kernel panicked"},
		"in a run":  {console: "Kernel panic - not syncing: x", records: all[:2], says: "the kernel panicked, while it ran pkg"},
		"hang":      {records: all[:2], timeout: context.DeadlineExceeded, status: -1, says: "it had not ended after 1m0s, while it ran pkg"},
		"early":     {records: all[:3], status: 1, says: "without having said that it was done"},
		"silent":    {status: 1, says: "without having said that it was done"},
		"forged":    {records: append(all[:3:3], done, start), status: 1, says: "without having said that it was done"},
		"power off": {records: all, status: 0, says: "QEMU ended with status 0"},
		"fault":     {records: []guest.Record{boot, {Kind: guest.Fault, Data: "no module"}}, status: 3, says: "init failed: no module"},
		"garbage":   {records: all[:1], readErr: errors.New("read record 2: invalid"), status: 1, says: "read record 2"},
		"warning":   {console: "a\n[ 2.0] ------------[ cut here ]------\r\n[ 2.0] WARNING: CPU: 0 at x\r\n", records: all, status: 1, says: "the kernel warned: [ 2.0] WARNING: CPU: 0 at x"},
	} {
		t.Run(name, func(t *testing.T) {
			console := filepath.Join(t.TempDir(), "console.log")
			if err := os.WriteFile(console, []byte(c.console), 0o600); err != nil {
				t.Fatal(err)
			}
			ended := exec.Command("sh", "-c", "exit "+strconv.Itoa(c.status&0xff))
			_ = ended.Run() // its status is what is wanted
			got := Machine{Timeout: time.Minute}.death(ended.ProcessState, c.timeout, c.records, c.readErr, console)
			if c.says == "" && got != "" || !strings.Contains(got, c.says) {
				t.Errorf("got %q, want %q", got, c.says)
			}
		})
	}
}
