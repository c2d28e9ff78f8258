package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/trace"
)

// probeSchema and probeVersion mark every JSON line of duomesh probe.
const (
	probeSchema  = "duomesh.probe"
	probeVersion = 1
)

// lineWriter prints connections, each once.
type lineWriter struct {
	out     io.Writer
	json    bool
	filter  dstFilter
	limit   int
	printed int
	// tracing adds to it; nil: nobody asked.
	tracing *tracing
}

func (w *lineWriter) full() bool { return w.limit > 0 && w.printed >= w.limit }

// lines prints the connections that are over, or all.
func (w *lineWriter) lines(lines []probe.Line, all bool) error {
	for _, l := range lines {
		if w.full() {
			return nil
		}
		if (!l.Over && !all) || !w.filter.takes(l) {
			continue
		}
		w.printed++
		if err := w.line(l); err != nil {
			return fmt.Errorf("print connection: %w", err)
		}
	}
	return nil
}

func (w *lineWriter) line(l probe.Line) error {
	calls, err := w.tracing.calls(l)
	if err != nil {
		return err
	}
	if w.json {
		c := jsonLine(l)
		c.Calls = calls
		return json.NewEncoder(w.out).Encode(c)
	}
	_, err = fmt.Fprintln(w.out, textLine(l)+waterfall(calls))
	return err
}

// textLine is for people: time since boot as kernel logs have it.
func textLine(l probe.Line) string {
	var b strings.Builder
	born := max(l.AskedAt, l.SynSentAt)
	if l.AskedAt != 0 {
		born = l.AskedAt
	}
	if l.Role == probe.RolePassive {
		born = l.EstablishedAt
	}
	at := time.Duration(born)
	fmt.Fprintf(&b, "%d.%06d %s %s %s", at/time.Second, at%time.Second/time.Microsecond, l.Pod, protocolName(l.Protocol), l.Role)
	if l.Role != probe.RolePassive {
		fmt.Fprintf(&b, " asked %s", known(l.Asked))
	}
	fmt.Fprintf(&b, " local %s peer %s", known(l.Local), known(l.Peer))
	for _, side := range []probe.Side{probe.SidePod, probe.SideHost} {
		for _, dst := range l.WireDst(side) {
			fmt.Fprintf(&b, " wire(%s) %s", side, dst)
		}
	}
	fmt.Fprintf(&b, " %s", l.State)
	if l.Errno != 0 {
		fmt.Fprintf(&b, " (%s)", unix.ErrnoName(l.Errno))
	}
	if l.Inferred {
		b.WriteString(" (inferred)")
	}
	if l.ClosedAt != 0 && born != 0 {
		fmt.Fprintf(&b, " after %s", time.Duration(l.ClosedAt-born).Round(time.Microsecond))
	}
	return b.String()
}

// known writes an address, or that it is not known.
func known(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.String()
}

func protocolName(p uint16) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_MPTCP:
		return "mptcp"
	}
	return fmt.Sprintf("protocol-%d", p)
}

// connectionJSON is one connection for machines. Unknown fields are left out.
type connectionJSON struct {
	Schema        string         `json:"schema"`
	Version       int            `json:"version"`
	Pod           string         `json:"pod"`
	Cookie        uint64         `json:"cookie,omitempty"`
	Protocol      string         `json:"protocol"`
	Role          probe.Role     `json:"role"`
	State         probe.State    `json:"state"`
	Over          bool           `json:"over"`
	Inferred      bool           `json:"inferred,omitempty"`
	Asked         netip.AddrPort `json:"asked,omitzero"`
	Sends         int            `json:"sends,omitempty"`
	Local         netip.AddrPort `json:"local,omitzero"`
	Peer          netip.AddrPort `json:"peer,omitzero"`
	Wire          []probe.SYN    `json:"wire,omitempty"`
	Errno         string         `json:"errno,omitempty"`
	AskedAt       int64          `json:"asked_ns,omitempty"`
	SynSentAt     int64          `json:"syn_sent_ns,omitempty"`
	EstablishedAt int64          `json:"established_ns,omitempty"`
	ReleasedAt    int64          `json:"released_ns,omitempty"`
	ClosedAt      int64          `json:"closed_ns,omitempty"`
	Calls         []trace.Call   `json:"calls,omitempty"`
}

func jsonLine(l probe.Line) connectionJSON {
	c := connectionJSON{
		Schema: probeSchema, Version: probeVersion, Pod: l.Pod, Cookie: l.Cookie,
		Protocol: protocolName(l.Protocol), Role: l.Role, State: l.State, Over: l.Over,
		Inferred: l.Inferred, Asked: l.Asked, Sends: l.Sends, Local: l.Local, Peer: l.Peer,
		Wire: l.Wire, AskedAt: l.AskedAt, SynSentAt: l.SynSentAt,
		EstablishedAt: l.EstablishedAt, ReleasedAt: l.ReleasedAt, ClosedAt: l.ClosedAt,
	}
	if l.Errno != 0 {
		c.Errno = unix.ErrnoName(l.Errno)
	}
	return c
}

// summary says at the end by what the connections were seen, and what was not.
func (w *lineWriter) summary(to io.Writer, l probe.Ledger) error {
	var b strings.Builder
	for _, k := range probe.Kinds() {
		fmt.Fprintf(&b, "%s seen by %s\n", k, l.Providers[k])
	}
	fmt.Fprintf(&b, "%d connections printed", w.printed)
	if n := len(l.Before); n > 0 {
		fmt.Fprintf(&b, ", %d older ones left out", n)
	}
	if n := len(l.Stray); n > 0 {
		fmt.Fprintf(&b, ", %d SYNs without a connection", n)
	}
	fmt.Fprintf(&b, "; %s\n", l.Lost)
	if _, err := io.WriteString(to, b.String()); err != nil {
		return fmt.Errorf("print summary: %w", err)
	}
	return nil
}
