package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// CodeRefused is the CNI error code of an agent that has answered, and has not
// done what was asked. An agent that does not answer, or is not ready, is
// types.ErrTryAgainLater.
const CodeRefused = 100

// answerTime bounds one question to an agent that has taken the call.
const answerTime = 15 * time.Second

// Versions are those of the specification that the plugin speaks: all. A list without one,
// which stands for 0.1.0, or of 0.2.0 is chained as any other by the runtimes that know
// lists at all; the result of the plugin before is passed on in its form.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// Funcs are the plugin's commands. A warning goes to log, which the runtime
// keeps: standard output is the result's.
func Funcs(log io.Writer) skel.CNIFuncs {
	p := plugin{log}
	return skel.CNIFuncs{Add: p.add, Check: p.check, Del: p.del, GC: p.nothing, Status: p.status}
}

type plugin struct{ log io.Writer }

// podArgs are what kubelet's runtime passes as CNI_ARGS; the names are theirs.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString
	K8S_POD_NAME      types.UnmarshallableString
	K8S_POD_UID       types.UnmarshallableString
}

// call is one command's input.
type call struct {
	conf      *Conf
	namespace string
	sandbox   api.Sandbox
}

// read returns nil for a sandbox that is no pod of Kubernetes: not ours.
func read(args *skel.CmdArgs) (*call, *Conf, error) {
	conf, err := parse(args.StdinData)
	if err != nil {
		return nil, nil, err
	}
	a := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args.Args, &a); err != nil {
		return nil, nil, types.NewError(types.ErrInvalidEnvironmentVariables, "read CNI_ARGS", err.Error())
	}
	if a.K8S_POD_NAME == "" || a.K8S_POD_NAMESPACE == "" {
		return nil, conf, nil
	}
	return &call{conf, string(a.K8S_POD_NAMESPACE), api.Sandbox{
		Pod: fmt.Sprintf("%s/%s", a.K8S_POD_NAMESPACE, a.K8S_POD_NAME), UID: string(a.K8S_POD_UID), ID: args.ContainerID,
	}}, conf, nil
}

// add asks the agent, and hands on the result of the plugin before.
func (p plugin) add(args *skel.CmdArgs) error {
	c, conf, err := read(args)
	if err != nil {
		return err
	}
	if conf.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, Type+" makes no network of its own", "it comes after another plugin in a chain")
	}
	if c != nil {
		if err := p.decide(c, args.Netns, api.Admit); err != nil {
			return err
		}
	}
	return types.PrintResult(conf.PrevResult, conf.CNIVersion)
}

func (p plugin) check(args *skel.CmdArgs) error {
	c, conf, err := read(args)
	if err != nil {
		return err
	}
	if conf.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "CHECK of "+Type, "the result of ADD did not come along")
	}
	if c == nil {
		return nil
	}
	return p.decide(c, args.Netns, api.Confirm)
}

// del never fails for an agent that is not there: the agent sees the end of a pod
// by itself, and a pod that cannot be deleted helps nobody.
func (p plugin) del(args *skel.CmdArgs) error {
	c, _, err := read(args)
	if err != nil || c == nil {
		return err
	}
	if ns, err := openNetns(args.Netns); err == nil {
		defer ns.Close()
		c.sandbox.Netns = ns
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	err = api.Release(ctx, c.conf.socket(), c.sandbox)
	switch {
	case errors.Is(err, api.ErrAbsent):
		fmt.Fprintf(p.log, "%s: pod %s is deleted without the agent: %v\n", Type, c.sandbox.Pod, err)
		return nil
	case err != nil:
		return types.NewError(CodeRefused, "the agent did not release pod "+c.sandbox.Pod, err.Error())
	}
	return nil
}

// status says that the plugin is there; whether the agent is decides each ADD.
func (p plugin) status(args *skel.CmdArgs) error {
	_, err := parse(args.StdinData)
	return err
}

// nothing is for GC: the agent keeps nothing that has no living pod.
func (p plugin) nothing(*skel.CmdArgs) error { return nil }

type question func(ctx context.Context, socket string, s api.Sandbox) (api.Verdict, error)

func (p plugin) decide(c *call, netns string, ask question) error {
	ns, err := openNetns(netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, "open the network namespace of pod "+c.sandbox.Pod, err.Error())
	}
	defer ns.Close()
	c.sandbox.Netns = ns
	_, err = patiently(c, ask)
	switch {
	case err == nil:
		return nil
	case !later(err):
		return types.NewError(CodeRefused, "the agent did not manage pod "+c.sandbox.Pod, err.Error())
	case c.conf.passes(c.namespace):
		fmt.Fprintf(p.log, "%s: pod %s starts without the agent, as configured: %v\n", Type, c.sandbox.Pod, err)
		return nil
	}
	return types.NewError(types.ErrTryAgainLater, "pod "+c.sandbox.Pod+" does not start without the agent", err.Error())
}

// later reports whether asking again may help: no agent answers, or one that knows
// nothing yet.
func later(err error) bool { return errors.Is(err, api.ErrAbsent) || errors.Is(err, api.ErrNotYet) }

// openNetns refuses the plain file that a namespace's mount leaves when it ends.
func openNetns(path string) (*os.File, error) {
	ns, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	kind, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		ns.Close()
		return nil, fmt.Errorf("%s is not a network namespace", path)
	}
	return ns, nil
}

// patiently asks again while no agent answers, or one that is not ready, for as long
// as configured. One that has decided is not asked twice.
func patiently(c *call, ask question) (api.Verdict, error) {
	try := func() (api.Verdict, error) {
		ctx, cancel := context.WithTimeout(context.Background(), answerTime)
		defer cancel()
		v, err := ask(ctx, c.conf.socket(), c.sandbox)
		if err != nil && !later(err) {
			err = backoff.Permanent(err)
		}
		return v, err
	}
	pace := &backoff.ExponentialBackOff{
		InitialInterval: 50 * time.Millisecond, Multiplier: 1.5, RandomizationFactor: 0.3, MaxInterval: time.Second,
	}
	return backoff.Retry(context.Background(), try, backoff.WithBackOff(pace), backoff.WithMaxElapsedTime(c.conf.wait()))
}
