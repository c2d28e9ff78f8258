package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/l4"
)

// Engine is what is asked of a node's engine; a dataplane.Node has it.
type Engine interface {
	Exits() (map[intent.Exit]uint64, error)
	Events() (map[l4.Event]uint64, error)
	Audit() ([]l4.Difference, error)
	Usage() ([]l4.Usage, error)
}

// Node is the node that answers.
type Node interface {
	Engine() Engine
	// Status returns the node's state; with seen only when that version of the
	// source has been applied or refused. An error is the context's.
	Status(ctx context.Context, seen string) (api.Status, error)
	// Snapshot returns what was applied last.
	Snapshot() intent.Snapshot
	Place() intent.Place
}

// NewHandler returns the admin API of n:
//
//	/status[?seen=VERSION]  api.Status
//	/services               api.Services
//	/workloads              api.Workloads
//	/policies               api.Policies
//	/endpoints              api.Endpoints
//	/maps                   api.Maps
//	/exits                  api.Exits
//	/audit                  api.Audit
//	/explain?from=POD&to=ADDRESS:PORT[&protocol=tcp|udp]  api.Explanation
//	/ready                  200 when the node redirects what was applied
//
// It changes nothing: every method but GET is refused.
func NewHandler(n Node) http.Handler {
	h := handler{n}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", h.status)
	mux.HandleFunc("GET /services", h.services)
	mux.HandleFunc("GET /workloads", h.workloads)
	mux.HandleFunc("GET /policies", h.dumpPolicies)
	mux.HandleFunc("GET /endpoints", h.endpoints)
	mux.HandleFunc("GET /maps", h.maps)
	mux.HandleFunc("GET /exits", h.exits)
	mux.HandleFunc("GET /audit", h.audit)
	mux.HandleFunc("GET /explain", h.explain)
	mux.HandleFunc("GET /ready", h.ready)
	return mux
}

type handler struct{ node Node }

// answer writes a value, or says what went wrong.
func answer(w http.ResponseWriter, value any, err error) {
	var bad api.BadRequestError
	switch {
	case errors.As(err, &bad):
		http.Error(w, bad.Error(), http.StatusBadRequest)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(value) // fails only when the asker has gone
}

func header(schema string) api.Header { return api.Header{Schema: schema, Version: api.Version} }

func (h handler) status(w http.ResponseWriter, r *http.Request) {
	s, err := h.node.Status(r.Context(), r.FormValue("seen"))
	s.Header = header(api.StatusSchema)
	events, evErr := h.node.Engine().Events()
	s.HandOffs = handOffLines(events, h.node.Snapshot())
	answer(w, s, errors.Join(err, evErr))
}

func (h handler) ready(w http.ResponseWriter, r *http.Request) {
	s, err := h.node.Status(r.Context(), "")
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case s.Problem != "":
		http.Error(w, s.Problem, http.StatusServiceUnavailable)
	case s.Applied.Generation == 0:
		http.Error(w, "nothing has been applied yet", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ready")
	}
}

func (h handler) maps(w http.ResponseWriter, _ *http.Request) {
	usage, err := h.node.Engine().Usage()
	m := api.Maps{Header: header(api.MapsSchema), Maps: []api.Map{}}
	for _, u := range usage {
		m.Maps = append(m.Maps, api.Map{Name: u.Map, Used: u.Used, Limit: u.Limit, Bytes: u.Bytes})
	}
	answer(w, m, err)
}

func (h handler) exits(w http.ResponseWriter, _ *http.Request) {
	e := api.Exits{Header: header(api.ExitsSchema), Exits: map[string]uint64{}, Events: map[string]uint64{}}
	exits, err := h.node.Engine().Exits()
	for name, n := range exits {
		e.Exits[string(name)] = n
	}
	events, evErr := h.node.Engine().Events()
	for name, n := range events {
		e.Events[string(name)] = n
	}
	answer(w, e, errors.Join(err, evErr))
}

func (h handler) audit(w http.ResponseWriter, r *http.Request) {
	s, err := h.node.Status(r.Context(), "")
	if err == nil && s.Applied.Generation == 0 {
		http.Error(w, "nothing has been applied since the agent started: there is nothing to compare the kernel with", http.StatusServiceUnavailable)
		return
	}
	found, auditErr := h.node.Engine().Audit()
	answer(w, api.Audit{Header: header(api.AuditSchema), Node: s.Node, Differences: differences(found)}, errors.Join(err, auditErr))
}

func differences(found []l4.Difference) []api.Difference {
	list := []api.Difference{}
	for _, d := range found {
		list = append(list, api.Difference{Map: d.Map, Entry: d.Entry, Want: d.Want, Have: d.Have})
	}
	return list
}

// Neighbours writes foreign programs in the API's form.
func Neighbours(found []l4.Neighbour) []api.Neighbour {
	list := []api.Neighbour{}
	for _, n := range found {
		list = append(list, api.Neighbour{Hook: n.Hook, Program: n.Program, ID: n.ID, Before: n.Before, Pod: n.Pod})
	}
	return list
}
