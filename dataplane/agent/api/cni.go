package api

import (
	"context"
	"errors"
	"os"
)

// Verdict says whether a pod is to be managed, and why.
type Verdict struct {
	Managed bool `json:"managed"`
	// Waypoint is the hand-off port of a pod that is a waypoint, which is never managed:
	// the engine serves the hand-off there. 0 for every other pod.
	Waypoint uint16 `json:"waypoint,omitempty"`
	// Reason is a sentence for people, for example "namespace shop has label
	// istio.io/dataplane-mode=duomesh".
	Reason string `json:"reason"`
}

// Sandbox is a pod as a container runtime hands it to a CNI plugin. Its cgroup is
// not part of that: the agent looks for it, now and later.
type Sandbox struct {
	// Pod is "namespace/name", UID Kubernetes' for it, ID the runtime's.
	Pod, UID, ID string
	// Netns stays the caller's. Release takes none: the namespace may have gone.
	Netns *os.File
}

func (s Sandbox) request(op string) (Request, []*os.File) {
	r := Request{Op: op, Pod: s.Pod, UID: s.UID, Sandbox: s.ID}
	if s.Netns == nil {
		return r, nil
	}
	r.Files = []string{FileNetns}
	return r, []*os.File{s.Netns}
}

// Admit asks the agent at socket to decide about a pod before its first process
// runs. When the verdict is that it is managed, or a waypoint, the kernel has
// confirmed it.
func Admit(ctx context.Context, socket string, s Sandbox) (Verdict, error) {
	return decide(ctx, socket, OpAdmit, s)
}

// Confirm asks whether the pod is as its verdict says; it changes nothing. The
// error says what is not so.
func Confirm(ctx context.Context, socket string, s Sandbox) (Verdict, error) {
	return decide(ctx, socket, OpConfirm, s)
}

func decide(ctx context.Context, socket, op string, s Sandbox) (Verdict, error) {
	r, files := s.request(op)
	reply, err := ask(ctx, socket, r, files...)
	if err != nil {
		return Verdict{}, err
	}
	if reply.Verdict == nil {
		return Verdict{}, errors.New(op + " at " + socket + ": the answer has no verdict")
	}
	return *reply.Verdict, nil
}

// Release ends the management of a sandbox. One that is not managed is no error,
// and a later sandbox of the same pod stays.
func Release(ctx context.Context, socket string, s Sandbox) error {
	r, files := s.request(OpRelease)
	_, err := ask(ctx, socket, r, files...)
	return err
}

// IsIstiod reports by its labels whether a pod is of Istio's control plane. Such a one is
// never managed: after a restart of everything it would wait for agents that wait for it.
func IsIstiod(labels map[string]string) bool {
	return labels["app"] == "istiod" && (labels["istio"] != "" || labels["istio.io/rev"] != "")
}
