// Package probe is the judge: kernel observers that know nothing of any mesh and
// say where each connection really went.
//
// Each kind of event has a ladder of providers, tried by really attaching; what
// they see is joined per socket into a [Ledger], one line per connection, next to
// exact counters of what passed the pods' interfaces. The judge names the provider
// of each event and counts what it missed.
//
// Times are CLOCK_MONOTONIC in nanoseconds; 0 means not seen.
package probe
