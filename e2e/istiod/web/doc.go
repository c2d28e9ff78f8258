// Package web is what runs in pods for the specs of waypoints: a server that speaks what
// applications speak (HTTP/1.1, h2c, gRPC, WebSocket, server-sent events, TCP of several
// kinds), and a client for each. Both are children of the suite's own program: the parent
// gives them a Task, and they answer with a Result.
package web

import (
	"encoding/json"
	"fmt"
	"os"
)

// Env marks a child; its value is the Task in JSON.
const Env = "DUOMESH_TEST_WEB"

// The ports of a server.
const (
	HTTPPort   = 7080 // HTTP/1.1 and h2c
	GRPCPort   = 7081
	BulkPort   = 7001 // see Bulk
	BannerPort = 7002 // the server speaks first, then echoes
)

// Task is what a child does.
type Task struct {
	// Do names it; see the functions of Result.
	Do string `json:"do"`
	// Name is the server's own.
	Name string `json:"name,omitempty"`
	// URL and Address are where a client goes.
	URL     string `json:"url,omitempty"`
	Address string `json:"address,omitempty"`
	Method  string `json:"method,omitempty"`
	// Header is sent with each request.
	Header map[string]string `json:"header,omitempty"`
	Body   string            `json:"body,omitempty"`
	// Count is how often, Conns over how many connections, PerSecond at what rate on each.
	Count     int     `json:"count,omitempty"`
	Conns     int     `json:"conns,omitempty"`
	PerSecond float64 `json:"per_second,omitempty"`
	// Close makes a connection for each request; H2C speaks HTTP/2 without TLS.
	Close bool `json:"close,omitempty"`
	H2C   bool `json:"h2c,omitempty"`
	// Up and Down are bytes.
	Up   int64 `json:"up,omitempty"`
	Down int64 `json:"down,omitempty"`
	// HBONE goes through a waypoint's own port with a certificate of istiod's.
	HBONE *Tunnel `json:"hbone,omitempty"`
}

// Tunnel is how a client gets a certificate, and where it shows it.
type Tunnel struct {
	Istiod, Token, Roots, Cluster string
	// Waypoint is its address and port; Authority where the connection goes.
	Waypoint, Authority string
}

// Result is what came of it.
type Result struct {
	// Got counts answers: by "server", or "status server", or the error.
	Got map[string]int `json:"got,omitempty"`
	// Dials is how many connections were made, Failed how many requests had no answer or
	// none with 200; First is what the first of those was.
	Dials  int    `json:"dials"`
	Failed int    `json:"failed"`
	First  string `json:"first,omitempty"`
	// Header and Text are of the last answer.
	Header map[string]string `json:"header,omitempty"`
	Text   string            `json:"text,omitempty"`
	// Samples are of a watch, in the order of their ends.
	Samples []Sample `json:"samples,omitempty"`
	Took    float64  `json:"took"` // seconds
	Error   string   `json:"error,omitempty"`
}

// Sample is one request of a watch; times are CLOCK_MONOTONIC nanoseconds.
type Sample struct {
	Start, End int64
	Conn       int    // which connection; -1 for one of its own
	Server     string // who answered with 200
	Error      string
}

// IsChild reports whether this process is one.
func IsChild() bool { return os.Getenv(Env) != "" }

// Main does the child's task.
func Main() int {
	var t Task
	err := json.Unmarshal([]byte(os.Getenv(Env)), &t)
	if err == nil && t.Do == "serve" {
		err = serve(t.Name)
	} else if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(do(t))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
