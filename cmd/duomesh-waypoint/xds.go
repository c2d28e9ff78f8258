package main

import (
	"github.com/duomesh/duomesh/dataplane/l7"
)

func (f flags) xdsControl(s surroundings, c *l7.Config, given, address string) (l7.Control, error) {
	return nil, usagef("--source %s: not yet", given)
}
