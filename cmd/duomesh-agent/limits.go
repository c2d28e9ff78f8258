package main

import (
	"github.com/spf13/pflag"

	"github.com/duomesh/duomesh/dataplane"
)

// limitFlags are the sizes of the kernel's maps.
type limitFlags struct{ dataplane.Limits }

// limit is one of them.
type limit struct {
	flag string
	of   *uint32
	what string
}

func (l *limitFlags) all() []limit {
	return []limit{
		{"max-pods", &l.Managed, "managed pods of the node"},
		{"max-frontends", &l.Frontends, "service addresses times ports and protocols, and one more for each address"},
		{"max-slots", &l.Slots, "endpoints of all services, for each family and each different mapping of ports; those of services that one update changes count twice"},
		{"max-names", &l.Names, "service addresses times TCP ports of services with a waypoint"},
		{"max-waypoints", &l.Waypoints, "waypoint pods of the node"},
	}
}

func (l *limitFlags) define(set *pflag.FlagSet) {
	l.Limits = dataplane.DefaultLimits()
	for _, one := range l.all() {
		set.Uint32Var(one.of, one.flag, *one.of, "the most `N` "+one.what+"; with pins of another size the agent does not start: --remove first")
	}
}

func (l *limitFlags) check() error {
	for _, one := range l.all() {
		if *one.of == 0 {
			return usagef("--%s 0: want at least 1", one.flag)
		}
	}
	return nil
}
