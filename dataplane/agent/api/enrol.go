package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// EnrolSocket is where an agent's enrolment socket is by default.
const EnrolSocket = "/run/duomesh-agent/enrol.sock"

// The operations of the enrolment socket.
const (
	OpEnrol = "enrol"
	OpLeave = "leave"
	OpList  = "list"
	// OpWaypoint is for the pod of a waypoint: the engine answers there for what
	// connections asked. Its management, if any, ends.
	OpWaypoint = "waypoint"

	// What the CNI plugin asks; see cni.go.
	OpAdmit   = "admit"
	OpConfirm = "confirm"
	OpRelease = "release"
)

// Names of descriptors that come with a request.
const (
	FileNetns  = "netns"
	FileCgroup = "cgroup"
)

// Request is one line of JSON to the enrolment socket, a unix stream socket.
// Descriptors come with its first byte (SCM_RIGHTS). One connection carries one
// request and one Reply.
type Request struct {
	// Version is that of the forms; an agent refuses others by name.
	Version int    `json:"version"`
	Op      string `json:"op"`
	// Pod is "namespace/name", needed by enrol and waypoint. Leave takes the name of
	// an enrolled pod or waypoint, or its network namespace.
	Pod string `json:"pod,omitempty"`
	// Cgroup is the pod's cgroup v2 directory, for people, and what is opened
	// when no descriptor of it comes along.
	Cgroup string `json:"cgroup,omitempty"`
	// Port is the hand-off port of a waypoint.
	Port uint16 `json:"port,omitempty"`
	// UID is the pod's in Kubernetes, Sandbox the container runtime's name for
	// what the pod's network namespace belongs to, which a CNI plugin knows alone.
	UID     string `json:"uid,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
	// Files names the descriptors, in their order.
	Files []string `json:"files,omitempty"`
}

// Reply is the answer, one line of JSON.
type Reply struct {
	Version int `json:"version"`
	// Error is "" when it was done and the kernel has confirmed it.
	Error string `json:"error,omitempty"`
	// NotYet is set with an error that asking later may mend.
	NotYet bool `json:"notYet,omitempty"`
	// Pods answers list.
	Pods []Pod `json:"pods,omitempty"`
	// Verdict answers admit and confirm.
	Verdict *Verdict `json:"verdict,omitempty"`
}

// ErrAbsent is in the chain of an error when no agent has answered: none is there,
// or it has ended meanwhile.
var ErrAbsent = errors.New("no agent answers")

// ErrNotYet is in the chain of an error when the agent that answered cannot do it yet.
var ErrNotYet = errors.New("the agent is not ready yet")

// NotYet marks an error that asking later may mend: ErrNotYet is in its chain, and its words
// stay what they are.
func NotYet(err error) error { return notYetError{err} }

type notYetError struct{ error }

// Is implements errors.Is.
func (notYetError) Is(target error) bool { return target == ErrNotYet }

// Unwrap returns the cause.
func (n notYetError) Unwrap() error { return n.error }

// MaxRequest is the size of the largest request in bytes.
const MaxRequest = 16 << 10

// maxFiles is one more than a request needs, so that too many are noticed.
const maxFiles = 3

// Files are the descriptors of a request by their names. Its owner closes it.
type Files map[string]*os.File

// Close closes all of them.
func (f Files) Close() error {
	var errs []error
	for _, file := range f {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}

// Take returns a descriptor, which is the caller's from now on; nil when there
// is none of the name.
func (f Files) Take(name string) *os.File {
	file := f[name]
	delete(f, name)
	return file
}

// Enrol asks the agent at socket to put a pod under management, and returns when
// the kernel has confirmed it. The descriptors stay the caller's.
func Enrol(ctx context.Context, socket, pod string, netns, cgroup *os.File) error {
	r := Request{Op: OpEnrol, Pod: pod, Cgroup: cgroup.Name(), Files: []string{FileNetns, FileCgroup}}
	_, err := ask(ctx, socket, r, netns, cgroup)
	return err
}

// ServeWaypoint asks the agent at socket to serve the hand-off to a waypoint pod at
// a port, and returns when the kernel has confirmed it. Asking again is no error;
// Leave ends it. The descriptors stay the caller's.
func ServeWaypoint(ctx context.Context, socket, pod string, netns, cgroup *os.File, port uint16) error {
	r := Request{
		Op: OpWaypoint, Pod: pod, Cgroup: cgroup.Name(), Port: port,
		Files: []string{FileNetns, FileCgroup},
	}
	_, err := ask(ctx, socket, r, netns, cgroup)
	return err
}

// Found is a pod that runs, as somebody who knows its UID has found it on the node.
type Found struct {
	// Pod is "namespace/name", UID Kubernetes' for it.
	Pod, UID string
	// Netns and Cgroup stay the caller's.
	Netns, Cgroup *os.File
	// Waypoint is the hand-off port of a waypoint's pod, 0 for one that is to be managed.
	Waypoint uint16
}

// Take asks the agent at socket to manage a pod that was found, or to serve it as a
// waypoint, and returns when the kernel has confirmed it. The agent refuses as long as
// it has the UID with another network namespace and a process of the pod is in that.
func Take(ctx context.Context, socket string, f Found) error {
	r := Request{
		Op: OpEnrol, Pod: f.Pod, UID: f.UID, Cgroup: f.Cgroup.Name(), Port: f.Waypoint,
		Files: []string{FileNetns, FileCgroup},
	}
	if f.Waypoint != 0 {
		r.Op = OpWaypoint
	}
	_, err := ask(ctx, socket, r, f.Netns, f.Cgroup)
	return err
}

// Leave asks the agent at socket to end the management of a pod, or the service of a
// waypoint. netns may be
// nil: then the agent must know the pod by its name.
func Leave(ctx context.Context, socket, pod string, netns *os.File) error {
	r := Request{Op: OpLeave, Pod: pod}
	var files []*os.File
	if netns != nil {
		r.Files, files = []string{FileNetns}, []*os.File{netns}
	}
	_, err := ask(ctx, socket, r, files...)
	return err
}

// List asks the agent at socket for its pods.
func List(ctx context.Context, socket string) ([]Pod, error) {
	reply, err := ask(ctx, socket, Request{Op: OpList})
	return reply.Pods, err
}

func ask(ctx context.Context, socket string, r Request, files ...*os.File) (reply Reply, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s at %s: %w", r.Op, socket, err)
		}
	}()
	r.Version = Version
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return reply, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	reply, err = exchange(c.(*net.UnixConn), r, files)
	if errors.Is(err, ErrAbsent) {
		return reply, errors.Join(err, ctx.Err())
	}
	return reply, err
}

// exchange sends a request on a connection and reads the answer. An agent that ends closes
// it at any moment, also before it is asked; one that refuses who asks does so with words.
func exchange(c *net.UnixConn, r Request, files []*os.File) (reply Reply, err error) {
	line, err := json.Marshal(r)
	if err != nil {
		return reply, err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	_, _, asked := c.WriteMsgUnix(append(line, '\n'), unix.UnixRights(fds...), nil)
	if asked != nil && !closed(asked) {
		return reply, asked
	}
	if err := json.NewDecoder(c).Decode(&reply); err != nil {
		return reply, fmt.Errorf("%w: read the answer: %w", ErrAbsent, errors.Join(asked, err))
	}
	if reply.Version != Version {
		return reply, fmt.Errorf("the answer has version %d, this program knows %d", reply.Version, Version)
	}
	switch {
	case reply.NotYet:
		return reply, fmt.Errorf("%w: %s", ErrNotYet, reply.Error)
	case reply.Error != "":
		return reply, errors.New(reply.Error)
	}
	return reply, nil
}

// closed reports whether an error says that a connection is none any more.
func closed(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// ReadRequest reads a request and its descriptors, which are the caller's.
func ReadRequest(c *net.UnixConn) (_ Request, _ Files, err error) {
	var got []*os.File
	defer func() {
		if err != nil {
			for _, f := range got {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	var line []byte
	for !bytes.HasSuffix(line, []byte("\n")) {
		data, rights := make([]byte, MaxRequest), make([]byte, unix.CmsgSpace(4*maxFiles))
		n, oobn, flags, _, err := c.ReadMsgUnix(data, rights)
		n, oobn = max(n, 0), max(oobn, 0) // -1 with some errors
		files, ferr := received(rights[:oobn])
		got = append(got, files...)
		line = append(line, data[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			return Request{}, nil, errors.New("read request: it has no end of line")
		case err != nil:
			return Request{}, nil, fmt.Errorf("read request: %w", err)
		case ferr != nil:
			return Request{}, nil, fmt.Errorf("read descriptors: %w", ferr)
		case flags&unix.MSG_CTRUNC != 0 || len(got) >= maxFiles:
			return Request{}, nil, errors.New("read request: it has too many descriptors")
		case len(line) > MaxRequest:
			return Request{}, nil, fmt.Errorf("read request: it is larger than %d bytes", MaxRequest)
		}
	}
	var r Request
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, nil, fmt.Errorf("read request: %w", err)
	}
	files, err := r.name(got)
	return r, files, err
}

// name holds the descriptors against what the request says of them.
func (r Request) name(got []*os.File) (Files, error) {
	if len(got) != len(r.Files) {
		return nil, fmt.Errorf("the request names %d descriptors and brings %d", len(r.Files), len(got))
	}
	files := Files{}
	for i, name := range r.Files {
		if !slices.Contains([]string{FileNetns, FileCgroup}, name) || files[name] != nil {
			return nil, fmt.Errorf("the request's descriptor %q is unknown or named twice", name)
		}
		files[name] = got[i]
	}
	return files, nil
}

// received makes files of the descriptors in a control message; they have
// close-on-exec set by ReadMsgUnix.
func received(rights []byte) ([]*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // credentials or what else: not asked for
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}
