// Package adstest is a control plane for tests: a real gRPC server that speaks the
// delta form of ADS as istiod does, from the resources that it is given, and commits
// the faults that a test asks for. No product code imports it.
package adstest
