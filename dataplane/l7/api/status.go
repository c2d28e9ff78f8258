package api

// Version is the version of Status.
const Version = 1

// Schema names Status among the machine-readable forms of this project.
const Schema = "duomesh.waypoint.status"

// Status is what a waypoint says of itself.
type Status struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	// Waypoint is its name, "namespace/name".
	Waypoint string `json:"waypoint"`
	// Ready is set when connections may be handed to it; else Waiting says for what it
	// waits, in a sentence.
	Ready   bool   `json:"ready"`
	Waiting string `json:"waiting,omitempty"`
	Source  Source `json:"source"`
	Envoy   Envoy  `json:"envoy"`
	// Services are those that it serves, by host name.
	Services []string `json:"services,omitempty"`
	// Changes are those that were made to what istiod sent, each with how often it
	// stands in the configuration as it is now.
	Changes []Change `json:"changes,omitempty"`
}

// Source is where the configuration comes from.
type Source struct {
	// Name is for people, for example "file:/etc/mesh.yaml".
	Name string `json:"name"`
	// Applied is the version that Envoy has; Seen the newest that came. They differ
	// while Envoy takes it, and when it does not: then Problem says why.
	Applied string `json:"applied,omitempty"`
	Seen    string `json:"seen,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// Envoy is the process.
type Envoy struct {
	Path string `json:"path"`
	PID  int    `json:"pid,omitempty"`
	// StandBy is the next one, which waits for this one's end.
	StandBy  int `json:"standBy,omitempty"`
	Restarts int `json:"restarts"`
	// Connections is the most that it takes.
	Connections int64 `json:"connections"`
}

// Change is one kind of change to what istiod sent.
type Change struct {
	Kind  string `json:"kind"`
	Why   string `json:"why"`
	Count int    `json:"count"`
}
