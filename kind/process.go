package kind

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/traffic"
)

// endTime is how long load has to end once it is told to.
const endTime = 2 * time.Second

// launcher starts load in a pod: born in its network namespace and in the cgroup of
// its container, of this machine's own program.
func (c *Cluster) launcher(p *pod) traffic.Launch {
	return func(ctx context.Context, args []string, stdin, stdout *os.File) (func() error, error) {
		var said bytes.Buffer
		cmd := exec.CommandContext(ctx, c.exe)
		cmd.Args, cmd.Stdin, cmd.Stdout, cmd.Stderr = args, stdin, stdout, &said
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(p.place.leaf.Fd())}
		cmd.WaitDelay = endTime
		if err := kernel.InNetns(p.place.netns, cmd.Start); err != nil {
			return nil, fmt.Errorf("start %s in pod %s: %w", args[0], p.spec.Name, err)
		}
		return func() error {
			if err := cmd.Wait(); err != nil {
				return fmt.Errorf("%s in pod %s: %w: %s", args[0], p.spec.Name, err, bytes.TrimSpace(said.Bytes()))
			}
			return nil
		}, nil
	}
}
