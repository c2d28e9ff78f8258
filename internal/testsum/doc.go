// Package testsum runs the tests of this module and counts them one by one: a Go
// test by its leaves, a Ginkgo suite by its specs. Nothing is lost on the way: a
// test that died without a result is a failure, a skip is listed with its
// reason, and a run in which no test ran fails.
package testsum
