package admin

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l4"
)

func (h handler) explain(w http.ResponseWriter, r *http.Request) {
	e, err := h.explained(r.Context(), r.FormValue("from"), r.FormValue("to"), r.FormValue("protocol"))
	answer(w, e, err)
}

func (h handler) explained(ctx context.Context, from, to, protocol string) (api.Explanation, error) {
	e := api.Explanation{Header: header(api.ExplainSchema)}
	proto, err := protocolOf(protocol)
	if err != nil {
		return e, err
	}
	dst, err := netip.ParseAddrPort(to)
	if err != nil || dst.Port() == 0 {
		return e, api.BadRequestError(fmt.Sprintf("to=%s: want ADDRESS:PORT, for example 10.96.0.10:80", to))
	}
	if from == "" {
		return e, api.BadRequestError("from is missing: want the name of a pod")
	}
	status, err := h.node.Status(ctx, "")
	if err != nil {
		return e, err
	}
	e.Node, e.To, e.Protocol = status.Node, dst, proto.String()
	snapshot := h.node.Snapshot()
	if e.From, e.Managed, err = podNamed(status.Pods, snapshot.Workloads, from); err != nil {
		return e, err
	}
	if e.Managed && status.Applied.Inherited {
		e.Targets, e.Differences = []api.Target{}, []api.Difference{}
		e.Why = []string{
			fmt.Sprintf("Pod %s is enrolled on node %s.", e.From, e.Node),
			"Nothing has been applied since this agent started: connections go where an earlier agent's state sends them, which the kernel has without names.",
		}
		return e, nil
	}
	caller := intent.Caller{Managed: e.Managed, Place: h.node.Place()}
	d := intent.Decide(snapshot, caller, dst, proto)
	e.Exit, e.Service, e.Targets = string(d.Exit), d.Service, targets(d.Targets)
	exits, err := h.node.Engine().Exits()
	if err != nil {
		return e, err
	}
	e.Count = exits[d.Exit]
	e.Why = slices.Concat(words(e, d, snapshot, status), unenforced(h.policies(), snapshot, e, d))
	return e, h.holdAgainstKernel(&e, status.Applied.Generation > 0)
}

func protocolOf(name string) (intent.Protocol, error) {
	switch strings.ToLower(name) {
	case "", "tcp":
		return intent.TCP, nil
	case "udp":
		return intent.UDP, nil
	}
	return 0, api.BadRequestError(fmt.Sprintf("protocol=%s: want tcp or udp", name))
}

// podNamed returns the full name of a pod that is named with or without its
// namespace, and whether it is enrolled. A name that several have is a bad
// request.
func podNamed(pods []api.Pod, workloads []*intent.Workload, name string) (full string, enrolled bool, err error) {
	known := map[string]bool{}
	for _, w := range workloads {
		known[w.Namespace+"/"+w.Name] = false
	}
	for _, p := range pods {
		known[p.Name] = true
	}
	if enrolled, is := known[name]; is {
		return name, enrolled, nil
	}
	var found []string
	for _, k := range slices.Sorted(maps.Keys(known)) {
		if strings.HasSuffix(k, "/"+name) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return name, false, nil // a source need not name the pods that only ask
	case 1:
		return found[0], known[found[0]], nil
	}
	return "", false, api.BadRequestError(fmt.Sprintf("from=%s: it may be %s: name its namespace", name, strings.Join(found, " or ")))
}

// holdAgainstKernel adds what the kernel's maps have otherwise than the answer
// assumes.
func (h handler) holdAgainstKernel(e *api.Explanation, applied bool) error {
	e.Differences = []api.Difference{}
	if !applied {
		e.Why = append(e.Why, "Nothing has been applied since this agent started.")
		return nil
	}
	found, err := h.node.Engine().Audit()
	if err != nil {
		return err
	}
	concerned := entriesOf(e.To)
	for _, d := range found {
		if d.Map == l4.Attachments || slices.ContainsFunc(concerned, func(prefix string) bool { return strings.HasPrefix(d.Entry, prefix) }) {
			e.Differences = append(e.Differences, differences([]l4.Difference{d})...)
		}
	}
	e.Elsewhere = len(found) - len(e.Differences)
	switch {
	case slices.ContainsFunc(found, func(d l4.Difference) bool { return d.Map == l4.Attachments }):
		e.Why = append(e.Why, "Programs of the engine are not attached to the node any more: connections go where they ask.")
	case len(e.Differences) > 0:
		e.Why = append(e.Why, "The kernel has something else for this address: connections go where it says, not where is written here.")
	case e.Elsewhere > 0:
		e.Why = append(e.Why, fmt.Sprintf("The kernel's maps differ from what was applied in %d entries: see `duomesh diff`.", e.Elsewhere))
	default:
		e.Why = append(e.Why, "The kernel's maps are what was applied, entry by entry.")
	}
	return nil
}

// entriesOf are the names under which an audit lists an address and port.
func entriesOf(to netip.AddrPort) []string {
	a := to.Addr().Unmap().WithZone("")
	return []string{
		netip.AddrPortFrom(a, to.Port()).String() + "/",
		netip.AddrPortFrom(a, 0).String() + "/",
	}
}
