package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/duomesh/duomesh/internal/cluster"
	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/kind"
	"github.com/duomesh/duomesh/netsim"
)

// openFiles are closed together, once the probe has no more use for them.
type openFiles []io.Closer

func (o *openFiles) open(what, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("%s: %w", what, err)
	}
	*o = append(*o, f)
	return f, nil
}

func closeAll(files openFiles) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// targets are what the flags name, or this network namespace. The files are the
// caller's to close, also on error.
func (f probeFlags) targets(ctx context.Context) (targets []probe.Target, files openFiles, err error) {
	for _, name := range f.netns {
		t, err := f.netnsTarget(name, &files)
		if err != nil {
			return nil, files, err
		}
		targets = append(targets, t)
	}
	pods, err := f.podTargets(ctx, &files)
	if err != nil {
		return nil, files, err
	}
	targets = append(targets, pods...)
	if len(targets) > 0 {
		return targets, files, nil
	}
	t, err := f.netnsTarget("self", &files)
	return []probe.Target{t}, files, err
}

// podTargets are the pods that the flags name: of a simulated cluster, or of the
// Kubernetes cluster that was named.
func (f probeFlags) podTargets(ctx context.Context, files *openFiles) (targets []probe.Target, err error) {
	if f.cluster.where != (cluster.Where{}) {
		return f.kubeTargets(ctx, files)
	}
	for _, name := range f.pods {
		pod, err := resolvePod(f.runDir, name)
		if err != nil {
			return nil, err
		}
		t, err := podTarget(pod, files)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// kubeTargets are pods of a Kubernetes cluster, both ends of their links.
func (f probeFlags) kubeTargets(ctx context.Context, files *openFiles) (targets []probe.Target, err error) {
	if len(f.pods) == 0 {
		return nil, usagef("a Kubernetes cluster and no pod: name one by --pod [NAMESPACE/]POD")
	}
	client, err := f.cluster.open(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range f.pods {
		namespace, pod, both := strings.Cut(name, "/")
		if !both {
			namespace, pod = client.Namespace, name
		}
		w, err := kind.Watch(ctx, client, namespace, pod)
		if err != nil {
			return nil, usagef("--pod %s: %w", name, err)
		}
		*files = append(*files, w)
		targets = append(targets, verify.Target(w.Handle))
	}
	return targets, nil
}

// netnsTarget is a namespace by path or process, with all its interfaces.
func (f probeFlags) netnsTarget(name string, files *openFiles) (probe.Target, error) {
	path, cgroup := name, f.cgroup
	pid, err := strconv.Atoi(name)
	switch {
	case name == "self":
		path = "/proc/thread-self/ns/net"
	case err == nil:
		path = fmt.Sprintf("/proc/%d/ns/net", pid)
		if cgroup == "" {
			if cgroup, err = cgroupOf(pid); err != nil {
				return probe.Target{}, err
			}
		}
	}
	if cgroup == "" {
		if cgroup, err = kernel.Cgroup2(); err != nil {
			return probe.Target{}, err
		}
	}
	t := probe.Target{Pod: name}
	if t.Netns, err = files.open("--netns "+name, path); err != nil {
		return t, err
	}
	if t.Cgroup, err = files.open("--cgroup", cgroup); err != nil {
		return t, err
	}
	if !kernel.IsCgroup2(t.Cgroup) {
		return t, usagef("--cgroup %s: this is no directory of cgroup v2", cgroup)
	}
	if t.Links, err = interfaces(t.Netns); err != nil {
		return t, usagef("--netns %s: %w", name, err)
	}
	return t, nil
}

// interfaces lists all interfaces of a namespace, as ends on the pod's side.
func interfaces(ns *os.File) ([]probe.Link, error) {
	var links []probe.Link
	err := kernel.InNetns(ns, func() error {
		all, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list interfaces of %s: %w", ns.Name(), err)
		}
		for _, i := range all {
			links = append(links, probe.Link{Netns: ns, Ifindex: i.Index, Side: probe.SidePod})
		}
		return nil
	})
	return links, err
}

// cgroupOf is the cgroup v2 directory of a process: the line "0::" of
// /proc/PID/cgroup, cgroups(7).
func cgroupOf(pid int) (string, error) {
	path := fmt.Sprintf("/proc/%d/cgroup", pid)
	file, err := os.Open(path)
	if err != nil {
		return "", usagef("--netns %d: %w", pid, err)
	}
	defer file.Close()
	root, err := kernel.Cgroup2()
	if err != nil {
		return "", err
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if dir, ok := strings.CutPrefix(lines.Text(), "0::"); ok {
			return filepath.Join(root, dir), nil
		}
	}
	return "", errors.Join(fmt.Errorf("read %s: no cgroup v2 line", path), lines.Err())
}

// podTarget opens a pod of a simulated cluster, both ends of its link.
func podTarget(pod netsim.PodState, files *openFiles) (probe.Target, error) {
	t := probe.Target{Pod: pod.Name}
	var err error
	if t.Netns, err = files.open("--pod "+pod.Name, pod.Netns); err != nil {
		return t, err
	}
	if t.Cgroup, err = files.open("--pod "+pod.Name, pod.Cgroup); err != nil {
		return t, err
	}
	for _, l := range pod.Links {
		link := probe.Link{Ifindex: l.Ifindex, Side: probe.SideHost}
		if l.InPod {
			link.Side = probe.SidePod
		}
		if link.Netns, err = files.open("--pod "+pod.Name, l.Netns); err != nil {
			return t, err
		}
		t.Links = append(t.Links, link)
	}
	return t, nil
}
