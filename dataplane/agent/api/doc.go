// Package api is what a node agent says and hears: the forms of its admin API
// and of its enrolment socket, and a client for each. The agent, the simulated
// cluster, the CNI plugin and the commands for people all use these forms.
package api
