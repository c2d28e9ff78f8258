package traffic

import (
	"net/netip"
	"time"
)

// Role says which end of a connection a line comes from.
type Role string

// The two ends.
const (
	Client Role = "client"
	Server Role = "server"
	// Progress is no end: half of an HTTP connection's requests are through. Only
	// ID is set with it.
	Progress Role = "progress"
)

// Conn is what one end knows of one connection. It is one JSON line.
type Conn struct {
	Role Role `json:"role"`
	// ID joins the two ends: the client sends it as the first 8 bytes. All
	// datagrams of a UDP socket have one.
	ID uint64 `json:"id"`
	// Cookie is SO_COOKIE, by which kernel probes know the socket.
	Cookie uint64 `json:"cookie"`
	// Asked is what the client passed to connect(); a v4-mapped address is
	// written as such. Unset on the server.
	Asked netip.AddrPort `json:"asked,omitzero"`
	// Local and Peer are getsockname and getpeername. A UDP server has them from
	// each datagram; a client that sends without connecting has in Local where the
	// last reply came to, and no Peer.
	Local netip.AddrPort `json:"local,omitzero"`
	Peer  netip.AddrPort `json:"peer,omitzero"`
	// From is the source of the last reply, as a UDP client was told it.
	From netip.AddrPort `json:"from,omitzero"`
	// Datagrams is how many a UDP client has sent, or a UDP server received, on
	// one ID.
	Datagrams int `json:"datagrams,omitempty"`
	// Server is the name that the server gave itself, as the client read it.
	Server string `json:"server,omitempty"`
	// Requests are those of an HTTP client, in their order.
	Requests []Request `json:"requests,omitempty"`
	// Served is how many requests of each HTTP client connection, by its ID, an HTTP
	// server has answered on this one.
	Served map[uint64]int `json:"served,omitempty"`
	// Sent and Received count payload bytes, without the header of this package.
	Sent     int64 `json:"sent"`
	Received int64 `json:"received"`
	// Errno names the first error, for example "ECONNREFUSED"; Op is the call
	// that gave it.
	Errno string `json:"errno,omitempty"`
	Op    string `json:"op,omitempty"`
	// Start, Connected and End are CLOCK_MONOTONIC in nanoseconds: before
	// connect(), after it returned, after the socket was closed.
	Start     int64 `json:"t0"`
	Connected int64 `json:"t1,omitempty"`
	End       int64 `json:"t2"`
}

// Request is one HTTP request, as its client saw it.
type Request struct {
	// Server is the name in the answer, Status its code.
	Server string `json:"server,omitempty"`
	Status int    `json:"status,omitempty"`
	// Start and End are CLOCK_MONOTONIC in nanoseconds.
	Start int64 `json:"t0"`
	End   int64 `json:"t1"`
}

// HTTP makes each connection of a Load one of HTTP/1.1.
type HTTP struct {
	// Requests are made one after the other, without ever connecting again.
	Requests int `json:"requests"`
	// Headers are sent with each.
	Headers map[string]string `json:"headers,omitempty"`
	// Close asks the server to close the connection behind each answer: there can
	// be one only.
	Close bool `json:"close,omitempty"`
}

// Load is what one client process does.
type Load struct {
	// To is the address that every connection asks for. A v4-mapped IPv6
	// address is dialled from an AF_INET6 socket.
	To netip.AddrPort `json:"to"`
	// Connections is how many connections are made in all.
	Connections int `json:"connections"`
	// Workers make them in parallel; at least 1.
	Workers int `json:"workers"`
	// PerSecond bounds the rate of all workers together; 0 means as fast as
	// possible.
	PerSecond float64 `json:"per_second,omitempty"`
	// Bytes is the payload that each connection sends and gets back.
	Bytes int `json:"bytes,omitempty"`
	// FirstID is the ID of the first connection; they count up from it.
	FirstID uint64 `json:"first_id"`
	// Bind is the local address to bind before connect; unset means none.
	Bind netip.AddrPort `json:"bind,omitzero"`
	// UDP makes each connection a UDP socket of its own, which sends Datagrams
	// one after the other, at least 1, and waits for the answer to each. Nothing
	// is sent again.
	UDP       bool `json:"udp,omitempty"`
	Datagrams int  `json:"datagrams,omitempty"`
	// Unconnected names the address in each sendto() instead of connecting once.
	Unconnected bool `json:"unconnected,omitempty"`
	// HTTP makes requests instead of sending a payload; Bytes must be 0.
	HTTP *HTTP `json:"http,omitempty"`
	// ServerFirst waits for the server's name before anything is sent: for ports of
	// ServerConfig.First.
	ServerFirst bool `json:"server_first,omitempty"`
	// Patience is how long each worker waits in connections that fail, in all, before
	// the client makes no more; 0 means half a minute.
	Patience time.Duration `json:"patience,omitempty"`
}
