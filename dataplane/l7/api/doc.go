// Package api is how a waypoint is asked from outside: the forms of its admin API, and
// a client for it.
package api
