// Package l7 is the second engine: a waypoint pod's one entry process, as a library.
// It runs a stock Envoy, gives it its configuration, from a Snapshot or from istiod,
// and says when connections may be handed to it.
//
// The parts are below it: envoy (the process), ads (how it is configured), render (the
// configuration of a Snapshot), relay (the configuration of an istiod), api (how it is
// asked from outside).
package l7
