package agent

import (
	"os"

	"github.com/duomesh/duomesh/dataplane"
)

// begin tells the engine of a pod that is new to it. What the pod has connected before is
// counted and, where it is to be, ended; what is managed already is left alone.
func (p *pods) begin(k *kept, ns, cgroup *os.File) error {
	pod := dataplane.Pod{Name: k.Name, Netns: ns, Cgroup: cgroup}
	if k.Waypoint != 0 || p.node.Confirm(pod) == nil {
		return p.tell(*k, ns, cgroup)
	}
	var err error
	if k.Older, err = p.node.Older(pod); err != nil {
		p.log.Warn("nobody knows how many connections are older than the enrolment", "pod", k.Name, "err", err)
	}
	if err := p.tell(*k, ns, cgroup); err != nil {
		return err
	}
	if !p.reset {
		if k.Older > 0 {
			p.log.Info("connections that are older than the enrolment stay as they are", "pod", k.Name, "connections", k.Older)
		}
		return nil
	}
	if k.Ended, err = p.node.EndOlder(pod); err != nil {
		p.log.Error("connections that are older than the enrolment go on", "pod", k.Name, "err", err)
	}
	if k.Ended > 0 {
		p.log.Info("connections that are older than the enrolment were ended", "pod", k.Name, "connections", k.Ended)
	}
	return nil
}
