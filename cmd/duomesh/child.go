package main

import (
	"os"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/internal/ambient/standin"
	"github.com/duomesh/duomesh/internal/traffic"
)

// runChild does the work of a process that simulated pods run of this same
// executable; child is false when a person has started it.
func runChild() (code int, child bool) {
	switch {
	case traffic.IsChild():
		return traffic.Main(), true
	case load.IsChild():
		return load.Main(), true
	case standin.IsChild():
		return standin.Main(os.Args, os.Environ()), true
	}
	return 0, false
}
