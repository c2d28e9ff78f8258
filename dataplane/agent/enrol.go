package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// requestTime bounds how long an enroller may take to say what it wants.
const requestTime = 5 * time.Second

// podName is "namespace/name" of Kubernetes.
var podName = regexp.MustCompile(`^[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*$`)

// listenEnrol makes the socket, in the place of one that a dead agent left: the
// engine's lock says that no other agent lives.
func listenEnrol(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("enrolment socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("enrolment socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("enrolment socket: %w", err), l.Close())
	}
	return l, nil
}

// serveEnrol answers until the listener is closed; then it waits for what is
// being answered.
func (a *Agent) serveEnrol(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := a.enrol.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			a.cfg.Log.Warn("a connection to the enrolment socket failed", "err", err)
			continue
		}
		wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			a.answerEnrol(ctx, c)
		})
	}
}

func (a *Agent) answerEnrol(ctx context.Context, c *net.UnixConn) {
	reply := api.Reply{Version: api.Version}
	if err := a.handle(ctx, c, &reply); err != nil {
		a.cfg.Log.Warn("an enrolment request was refused", "err", err)
		reply.Error, reply.NotYet = err.Error(), errors.Is(err, api.ErrNotYet)
	}
	// Fails only when the asker has gone; what was done holds.
	_ = json.NewEncoder(c).Encode(reply)
}

func (a *Agent) handle(ctx context.Context, c *net.UnixConn, reply *api.Reply) error {
	if err := onlyRoot(c); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(requestTime)); err != nil {
		return err
	}
	r, files, err := api.ReadRequest(c)
	if err != nil {
		return err
	}
	defer files.Close()
	if r.Version != api.Version {
		return fmt.Errorf("the request has version %d, this agent knows %d", r.Version, api.Version)
	}
	// Deciding may take as long again as asking did.
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if err := c.SetDeadline(time.Now().Add(2 * requestTime)); err != nil {
		return err
	}
	if err := a.do(ctx, r, files, reply); err != nil {
		return err
	}
	if r.Op != api.OpList && r.Op != api.OpConfirm {
		a.cfg.Log.Info(r.Op, "pod", r.Pod)
	}
	return nil
}

func (a *Agent) do(ctx context.Context, r api.Request, files api.Files, reply *api.Reply) (err error) {
	switch r.Op {
	case api.OpEnrol, api.OpWaypoint:
		return a.enrolPod(r, files)
	case api.OpLeave:
		return a.pods.leave(r.Pod, files[api.FileNetns])
	case api.OpList:
		reply.Pods, _, err = a.pods.list()
		return err
	case api.OpAdmit:
		reply.Verdict, err = a.admit(ctx, r, files)
		return err
	case api.OpConfirm:
		reply.Verdict, err = a.confirm(ctx, r, files)
		return err
	case api.OpRelease:
		return a.pods.release(kept{Name: r.Pod, UID: r.UID, Sandbox: r.Sandbox}, files[api.FileNetns])
	}
	return fmt.Errorf("operation %q is unknown: want %s, %s, %s, %s, %s, %s or %s", r.Op,
		api.OpEnrol, api.OpWaypoint, api.OpLeave, api.OpList, api.OpAdmit, api.OpConfirm, api.OpRelease)
}

// enrolPod is for enrol and waypoint, which differ in the port.
func (a *Agent) enrolPod(r api.Request, files api.Files) error {
	if !podName.MatchString(r.Pod) {
		return fmt.Errorf("pod %q: want namespace/name", r.Pod)
	}
	ns := files[api.FileNetns]
	if ns == nil {
		return fmt.Errorf("%s pod %s: its network namespace did not come along", r.Op, r.Pod)
	}
	if (r.Port != 0) != (r.Op == api.OpWaypoint) {
		return fmt.Errorf("%s pod %s: the hand-off port is for %s, and needed there", r.Op, r.Pod, api.OpWaypoint)
	}
	cgroup, err := openCgroup(r.Cgroup, files[api.FileCgroup])
	if err != nil {
		return fmt.Errorf("%s pod %s: %w", r.Op, r.Pod, err)
	}
	defer cgroup.Close()
	if err := a.pods.enrol(kept{Name: r.Pod, UID: r.UID, Cgroup: cgroup.Name(), Waypoint: r.Port}, ns, cgroup); err != nil {
		return err
	}
	files.Take(api.FileNetns) // it is a.pods' now
	return nil
}

// openCgroup opens a pod's cgroup by its path, by which its end is seen, too. A
// descriptor that came along must be of the same.
func openCgroup(path string, sent *os.File) (*os.File, error) {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("its cgroup: %w", err)
	}
	if sent == nil {
		return dir, nil
	}
	id, err := idOf(sent)
	if err == nil && !id.at(path) {
		err = fmt.Errorf("%s is not the path of the cgroup whose descriptor came along", path)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// onlyRoot refuses a peer that is not root. The socket's mode says the same; this
// holds when somebody has changed it.
func onlyRoot(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var sockErr error
	err = raw.Control(func(fd uintptr) {
		peer, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, sockErr); err != nil {
		return fmt.Errorf("who asks: %w", err)
	}
	if peer.Uid != 0 {
		return fmt.Errorf("user %d may not enrol: root alone may", peer.Uid)
	}
	return nil
}
