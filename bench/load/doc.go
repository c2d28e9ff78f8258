// Package load makes the benchmark's requests and answers them. Both ends are
// child processes, born inside a simulated pod: fortio's goroutines move between
// threads, so a process that merely enters a namespace would not stay in it.
//
// The program that starts them is its own executable again: a main function or
// TestMain calls IsChild and Main first. A child is steered over its standard
// streams (see Client and Server for the calling end):
//
//	client  < Spec        > warm      the warm-up is over, nothing runs
//	        < go          > done      the timed requests are over
//	        < collect     > Report, then Report.SampleBytes of samples (see
//	                        WriteSamples) and Report.FortioBytes of fortio's JSON
//	server  < ServerSpec  > ready
//	        < count       > Counts    as often as wanted; end of input ends it
//
// Whoever measures reads its counters between warm and go, and between done and
// collect, so that start-up, warm-up and the writing of results cost nothing.
package load
