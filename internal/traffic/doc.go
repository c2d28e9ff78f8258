// Package traffic is the one client and server of every world: raw TCP by
// system calls, HTTP by fortio's packages. Both run as child processes inside a
// pod and say on standard output what happened, one JSON line per connection.
//
// The program that a world starts is its own executable again: a main function
// or TestMain calls IsChild and Main first (see Main).
package traffic
