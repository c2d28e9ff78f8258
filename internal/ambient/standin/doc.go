// Package standin is a node proxy in Go that speaks HBONE: the reference that the
// bench shows where no ztunnel can be had. It is not ztunnel, and says so wherever
// it says anything.
//
// It is driven as a ztunnel is: pods by ZDS, certificates from the mesh's
// authority, workloads from the local file, the same ports, the same counters. On
// the wire it does what a ztunnel does: TLS 1.3 with SPIFFE identities on both
// ends, ALPN h2, one HTTP/2 CONNECT stream for each connection of an application,
// streams of one pod to one destination pooled on one connection, up to 100 of
// them; the server's side connects to the application from the client's address.
//
// What is less than ztunnel: an application that closes its sending side first
// while its peer still sends gets no more of what the peer sends afterwards
// (net/http's server cannot end half a stream); no policies, no waypoints, no
// IPv6, no DNS.
package standin
