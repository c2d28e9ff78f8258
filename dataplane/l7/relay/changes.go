package relay

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/duomesh/duomesh/dataplane/l7/api"
)

//go:embed changes.yaml
var changesFile []byte

// The kinds of changes that are made by code.
const (
	routeByName     = "route-by-name"
	handOffListener = "hand-off-listener"
	proxyListener   = "hand-off-proxy-v2-listener"
	noInspector     = "hand-off-without-http-inspector"
	localAddress    = "hand-off-local-address"
	plainDirect     = "hand-off-plain-to-workloads"
	ownPort         = "hand-off-own-port"
	needsIdentity   = "hand-off-needs-identity"
	byAddress       = "hand-off-identity-by-address"
)

// rules are the content of changes.yaml.
type rules struct {
	Version   int
	Drop      []dropRule
	Factories []factoryRule
	Made      []madeRule
}

type dropRule struct{ Kind, Type, Why string }

type factoryRule struct{ Kind, From, To, Why string }

type madeRule struct{ Kind, Why string }

// loadRules reads the file that is part of the program.
func loadRules() (rules, error) {
	var r rules
	if err := yaml.UnmarshalWithOptions(changesFile, &r, yaml.Strict()); err != nil {
		return rules{}, fmt.Errorf("changes.yaml: %w", err)
	}
	if r.Version != 1 {
		return rules{}, fmt.Errorf("changes.yaml: version %d, want 1", r.Version)
	}
	return r, nil
}

// drop returns the kind under which a filter of some type is left out, or "".
func (r rules) drop(typeURL string) string {
	name := typeURL[strings.LastIndex(typeURL, "/")+1:]
	for _, d := range r.Drop {
		if d.Type == name {
			return d.Kind
		}
	}
	return ""
}

// list says of each kind how often it was made.
func (r rules) list(counts map[string]int) []api.Change {
	var all []api.Change
	add := func(kind, why string) { all = append(all, api.Change{Kind: kind, Why: why, Count: counts[kind]}) }
	for _, d := range r.Drop {
		add(d.Kind, d.Why)
	}
	for _, f := range r.Factories {
		add(f.Kind, f.Why)
	}
	for _, m := range r.Made {
		add(m.Kind, m.Why)
	}
	return all
}
