package scenario

import (
	"context"
	"fmt"

	"github.com/duomesh/duomesh/internal/strictyaml"
)

// file is the YAML form of a scenario (docs/scenarios.md). Keys are the field
// names in lower case.
type file struct {
	Name     string
	Summary  string
	Topology Topology
	Objects  Objects
	Phases   []struct {
		Before []fileAction
		Loads  []Load
		During []fileAction
	}
}

// SetDefaults gives an endpoint the weight that it has in a file that does not say one.
func (e *Endpoint) SetDefaults() { e.Weight = 1 }

// SetDefaults does the same for a backend.
func (b *Backend) SetDefaults() { b.Weight = 1 }

// fileAction holds exactly one of its keys.
type fileAction struct {
	Apply         *Objects
	Enrol         string
	Leave         string
	StopServer    string `yaml:"stopServer"`
	Recycle       string
	KillAgent     string `yaml:"killAgent"`
	StartAgent    string `yaml:"startAgent"`
	KillWaypoint  string `yaml:"killWaypoint"`
	StartWaypoint string `yaml:"startWaypoint"`
	Churn         *struct {
		Between   []Objects
		Changes   int
		PerSecond int `yaml:"perSecond"`
		Kill      []string
		KillEvery int `yaml:"killEvery"`
		Through   bool
	}
}

// LoadFile reads a scenario from a YAML file. An error names the file, and each thing
// that is wrong with its line and column.
func LoadFile(ctx context.Context, path string) (Scenario, error) {
	data, err := strictyaml.Read(ctx, path)
	if err != nil {
		return Scenario{}, fmt.Errorf("read scenario: %w", err)
	}
	return parse(path, data)
}

func parse(name string, data []byte) (Scenario, error) {
	var f file
	doc := strictyaml.Decode(name, data, &f)
	if doc.Has("version") && doc.Has("nodes") {
		return Scenario{}, fmt.Errorf("%s: this is a topology, not a scenario: duomesh netsim up -f builds it", name)
	}
	if err := doc.Err(); err != nil {
		return Scenario{}, err
	}
	s := Scenario{Name: f.Name, Summary: f.Summary, Topology: f.Topology, Objects: f.Objects}
	if s.Topology.Mesh == "" {
		s.Topology.Mesh = Duomesh
	}
	for i, ph := range f.Phases {
		s.Phases = append(s.Phases, Phase{
			Before: actions(doc, fmt.Sprintf("phases[%d].before", i), ph.Before), Loads: ph.Loads,
			During: actions(doc, fmt.Sprintf("phases[%d].during", i), ph.During),
		})
	}
	if s.Name == "" {
		doc.Add(doc.Place("name"), "name is missing")
	}
	if doc.Err() == nil { // else places of actions are not known
		for _, err := range s.problems() {
			doc.Add(doc.Place(PathOf(err)), "%v", err)
		}
	}
	doc.Sort()
	if err := doc.Err(); err != nil {
		return Scenario{}, err
	}
	return s, nil
}

func actions(doc *strictyaml.Document, path string, in []fileAction) []Action {
	var out []Action
	for i, a := range in {
		one := a.given()
		if len(one) != 1 {
			doc.Add(doc.Place(fmt.Sprintf("%s[%d]", path, i)), "an action has exactly one key of apply, enrol, leave, "+
				"stopServer, recycle, killAgent, startAgent, killWaypoint, startWaypoint, churn, and its value is not empty")
		}
		out = append(out, one...)
	}
	return out
}

// given are the actions whose keys are there.
func (a fileAction) given() []Action {
	var all []Action
	if a.Apply != nil {
		all = append(all, Apply{*a.Apply})
	}
	if a.Churn != nil {
		c := a.Churn
		all = append(all, Churn{
			Between: c.Between, Changes: c.Changes, PerSecond: c.PerSecond,
			Kill: c.Kill, KillEvery: c.KillEvery, Through: c.Through,
		})
	}
	for _, named := range []struct {
		name   string
		action Action
	}{
		{a.Enrol, Enrol{a.Enrol}},
		{a.Leave, Leave{a.Leave}},
		{a.StopServer, StopServer{a.StopServer}},
		{a.Recycle, Recycle{a.Recycle}},
		{a.KillAgent, KillAgent{a.KillAgent}},
		{a.StartAgent, StartAgent{a.StartAgent}},
		{a.KillWaypoint, KillWaypoint{a.KillWaypoint}},
		{a.StartWaypoint, StartWaypoint{a.StartWaypoint}},
	} {
		if named.name != "" {
			all = append(all, named.action)
		}
	}
	return all
}
