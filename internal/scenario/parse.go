package scenario

import (
	"fmt"
	"os"

	"github.com/goccy/go-yaml"
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

// LoadFile reads a scenario from a YAML file. An error names the file, the line and
// the column where it can, and what is wrong.
func LoadFile(path string) (Scenario, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Scenario{}, fmt.Errorf("read scenario: %w", err)
	}
	return parse(path, data)
}

func parse(name string, data []byte) (Scenario, error) {
	var f file
	if err := yaml.UnmarshalWithOptions(data, &f, yaml.Strict()); err != nil {
		return Scenario{}, fmt.Errorf("scenario file %s: %s", name, yaml.FormatError(err, false, false))
	}
	s := Scenario{Name: f.Name, Summary: f.Summary, Topology: f.Topology, Objects: f.Objects}
	if s.Topology.Mesh == "" {
		s.Topology.Mesh = Duomesh
	}
	for i, ph := range f.Phases {
		before, err := actions(ph.Before)
		if err != nil {
			return Scenario{}, fmt.Errorf("scenario file %s: phase %d: before: %w", name, i+1, err)
		}
		during, err := actions(ph.During)
		if err != nil {
			return Scenario{}, fmt.Errorf("scenario file %s: phase %d: during: %w", name, i+1, err)
		}
		s.Phases = append(s.Phases, Phase{Before: before, Loads: ph.Loads, During: during})
	}
	if s.Name == "" {
		return Scenario{}, fmt.Errorf("scenario file %s: name is missing", name)
	}
	if err := s.Validate(); err != nil {
		return Scenario{}, fmt.Errorf("scenario file %s: %w", name, err)
	}
	return s, nil
}

func actions(in []fileAction) ([]Action, error) {
	var out []Action
	for i, a := range in {
		one := a.given()
		if len(one) != 1 {
			return nil, fmt.Errorf("action %d: exactly one of apply, enrol, leave, stopServer, recycle, killAgent, startAgent, killWaypoint, startWaypoint, churn", i+1)
		}
		out = append(out, one...)
	}
	return out, nil
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
