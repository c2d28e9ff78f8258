// Package admin answers the read-only admin API of one node: what its engine
// has, and why a connection goes where it goes. The agent serves it, and so
// does a simulated node whose engine lives in another process.
package admin
