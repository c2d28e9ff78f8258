package file

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/strictyaml"
)

// Marshal writes s in the form that Parse reads: Parse gives a Snapshot of
// equal values. Waypoints that nothing refers to do not exist in a Snapshot
// and are not written.
//
// It fails for a Snapshot that does not pass Validate, and for one that the
// form has no words for: a reference to a workload that is not in
// s.Workloads, two different waypoints or two policies of one name, control
// characters, an endpoint's own port for a port that the service does not
// declare, a preference of scopes without a mode that uses it.
func Marshal(s intent.Snapshot) ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("write intent: %w", err)
	}
	w := writer{workloads: make(map[string]*intent.Workload, len(s.Workloads)), waypoints: map[string]*intent.Waypoint{}}
	d := w.document(s)
	if err := w.Err(); err != nil {
		return nil, fmt.Errorf("write intent: %w", err)
	}
	b := builder{}
	if b.snapshot(d); len(b.List) > 0 {
		return nil, fmt.Errorf("write intent: %w", b.Err())
	}
	node, err := yaml.ValueToNode(d, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("write intent: %w", err)
	}
	ast.Walk(quoter{}, node)
	return []byte(node.String() + "\n"), nil
}

// quoter puts every text in quotes that is not a plain word. The library
// leaves out the quotes of some texts that it reads back as a number, and
// hands over the others as their quoted form.
type quoter struct{}

var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9./-]*$`)

// Visit implements ast.Visitor.
func (q quoter) Visit(n ast.Node) ast.Visitor {
	s, ok := n.(*ast.StringNode)
	if !ok {
		return q
	}
	if raw, err := strconv.Unquote(s.Value); err == nil && s.Value[0] == '"' {
		s.Value = raw
	}
	s.Token.Type = token.StringType
	if !plainWord.MatchString(s.Value) || token.IsNeedQuoted(s.Value) {
		s.Token.Type = token.DoubleQuoteType
	}
	return q
}

// writer makes a document of a Snapshot.
type writer struct {
	problems
	workloads map[string]*intent.Workload // by UID
	waypoints map[string]*intent.Waypoint // by name, those met so far
	order     []*intent.Waypoint          // of waypoints
}

func (w *writer) document(s intent.Snapshot) document {
	d := document{Version: version}
	for _, v := range s.Workloads {
		w.workloads[v.UID] = v
	}
	for _, v := range s.Workloads {
		d.Workloads = append(d.Workloads, w.workload(v))
	}
	for _, v := range s.Services {
		d.Services = append(d.Services, w.service(v))
	}
	for i := 0; i < len(w.order); i++ {
		d.Waypoints = append(d.Waypoints, w.waypoint(w.order[i]))
	}
	for _, v := range s.Policies {
		d.Policies = append(d.Policies, w.policy(v))
	}
	for _, v := range s.Routes {
		d.Routes = append(d.Routes, w.route(v))
	}
	return d
}

// text passes s on, and complains when YAML could not carry it.
func (w *writer) text(owner, s string) string {
	if !strictyaml.Printable(s) {
		w.Add(position{}, "%s: %q has control characters or is not UTF-8", owner, s)
	}
	return s
}

// needed passes s on, and complains when it is empty, too.
func (w *writer) needed(owner, what, s string) string {
	if s == "" {
		w.Add(position{}, "%s: %s is empty", owner, what)
	}
	return w.text(owner, s)
}

func (w *writer) workload(v *intent.Workload) workload {
	owner := "workload " + v.UID
	form := workload{
		UID: w.text(owner, v.UID), Name: w.text(owner, v.Name), Namespace: w.text(owner, v.Namespace),
		Addresses: v.Addresses, Weight: v.Weight,
		Node: w.text(owner, v.Node), Network: w.text(owner, v.Network), Cluster: w.text(owner, v.Cluster),
		Unhealthy: v.Unhealthy, HostNetwork: v.HostNetwork, Gateway: v.Gateway,
		Hostname: w.text(owner, v.Hostname), Unprotected: v.Unprotected,
		Waypoint: w.waypointName(owner, v.Waypoint),
	}
	if v.Name != "" && v.UID == defaultUID(v.Namespace, v.Name) {
		form.UID = ""
	}
	if l := v.Locality; l != (intent.Locality{}) {
		form.Locality = &locality{
			Region: w.text(owner, l.Region), Zone: w.text(owner, l.Zone), Subzone: w.text(owner, l.Subzone),
		}
	}
	return form
}

func (w *writer) service(v *intent.Service) service {
	owner := "service " + v.Key()
	form := service{
		Name: w.text(owner, v.Name), Namespace: w.text(owner, v.Namespace), Hostname: w.text(owner, v.Hostname),
		Addresses: v.Addresses, Canonical: v.Canonical,
		Endpoints: w.endpoints(owner, v.Endpoints),
		Waypoint:  w.waypointName(owner, v.Waypoint),
	}
	for _, p := range v.Ports {
		f := port{Port: p.Port, Name: w.text(owner, p.Name), Protocol: p.Protocol.String()}
		if p.Target != p.Port {
			f.TargetPort = new(targetPort(p.Target))
		}
		form.Ports = append(form.Ports, f)
	}
	form.Balance = balanceForm(v.Balance)
	return form
}

// balanceForm is nil for the usual balance.
func balanceForm(b intent.Balance) *balance {
	if b.Mode == intent.Any && len(b.Prefer) == 0 && !b.AllowUnhealthy {
		return nil
	}
	form := &balance{Mode: cmp.Or(string(b.Mode), anyMode), AllowUnhealthy: b.AllowUnhealthy}
	for _, s := range b.Prefer {
		form.Prefer = append(form.Prefer, string(s))
	}
	return form
}

func (w *writer) endpoints(owner string, all []intent.Endpoint) []endpoint {
	var forms []endpoint
	for _, e := range all {
		if w.workloads[e.Workload.UID] != e.Workload {
			w.Add(position{}, "%s: endpoint %s is not among the workloads", owner, e.Workload.UID)
		}
		forms = append(forms, endpoint{Workload: e.Workload.UID, Ports: e.Ports})
	}
	return forms
}

// waypointName returns the name of v, and remembers v to be written.
func (w *writer) waypointName(owner string, v *intent.Waypoint) string {
	if v == nil {
		return ""
	}
	met, ok := w.waypoints[v.Name]
	switch {
	case !ok:
		w.waypoints[v.Name] = v
		w.order = append(w.order, v)
	case met != v && !sameWaypoint(met, v):
		w.Add(position{}, "%s: another waypoint is named %s, too", owner, v.Name)
	}
	return w.needed(owner, "name of its waypoint", v.Name)
}

func sameWaypoint(a, b *intent.Waypoint) bool {
	return a.Codec == b.Codec && a.Port == b.Port && reflect.DeepEqual(a.Balance, b.Balance) &&
		slices.EqualFunc(a.Endpoints, b.Endpoints, func(x, y intent.Endpoint) bool { return x.Workload == y.Workload })
}

func (w *writer) waypoint(v *intent.Waypoint) waypoint {
	owner := "waypoint " + v.Name
	form := waypoint{
		Name: v.Name, Codec: string(v.Codec), Port: v.Port,
		Endpoints: w.endpoints(owner, v.Endpoints), Balance: balanceForm(v.Balance),
	}
	for i, e := range form.Endpoints {
		if len(e.Ports) > 0 {
			w.Add(position{}, "%s: endpoint %s has ports of its own, which a waypoint's does not use", owner, e.Workload)
			form.Endpoints[i].Ports = nil
		}
	}
	return form
}

func (w *writer) policy(v *intent.Policy) policy {
	owner := "policy " + v.Key()
	for _, uid := range v.Workloads {
		if w.workloads[uid] == nil {
			w.Add(position{}, "%s: %s is not among the workloads", owner, uid)
		}
	}
	return policy{
		Name: w.needed(owner, "name", v.Name), Namespace: w.text(owner, v.Namespace),
		Workloads: v.Workloads, Deny: v.Deny,
	}
}

func (w *writer) route(v *intent.Route) route {
	owner := "route of service " + v.Service
	form := route{Service: v.Service, Timeout: v.Timeout}
	if v.Timeout < 0 {
		w.Add(position{}, "%s: timeout %s is negative", owner, v.Timeout)
	}
	if v.Match != (intent.HeaderMatch{}) {
		form.Match = &match{Header: w.needed(owner, "header", v.Match.Name), Exact: w.text(owner, v.Match.Exact)}
	}
	for _, b := range v.Backends {
		if b.Port == 0 {
			w.Add(position{}, "%s: backend %s: port is 0", owner, b.Service)
		}
		form.Backends = append(form.Backends, backend{Service: b.Service, Port: b.Port, Weight: b.Weight})
	}
	return form
}
