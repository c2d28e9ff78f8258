// Package stats says how far two variants of a benchmark are apart, and how
// sure that is: paired effects over blocks with bootstrap intervals, a
// rank test as a second opinion, and the verdict against an A/A noise floor.
//
// The unit of replication is the trial, not the request. A block holds one
// trial of every variant, close together in time, so that slow changes of the
// machine fall on all of them; effects are taken inside a block and then joined
// over the blocks.
package stats
