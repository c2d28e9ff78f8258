package load

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// linkCounts is what the network namespace of this process has counted.
type linkCounts struct{ in, out, retransmits uint64 }

func (c linkCounts) since(before linkCounts) linkCounts {
	return linkCounts{c.in - before.in, c.out - before.out, c.retransmits - before.retransmits}
}

// readLinkCounts reads packets of all links other than loopback, and TCP's
// retransmitted segments.
func readLinkCounts() (linkCounts, error) {
	dev, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return linkCounts{}, fmt.Errorf("read packet counters: %w", err)
	}
	snmp, err := os.ReadFile("/proc/self/net/snmp")
	if err != nil {
		return linkCounts{}, fmt.Errorf("read TCP counters: %w", err)
	}
	c, err := parseDev(string(dev))
	if err != nil {
		return linkCounts{}, err
	}
	c.retransmits, err = parseRetransmits(string(snmp))
	return c, err
}

// parseDev sums the receive and transmit packet columns (2 and 10) of
// /proc/net/dev.
func parseDev(text string) (linkCounts, error) {
	var c linkCounts
	for line := range strings.Lines(text) {
		name, counters, ok := strings.Cut(line, ":")
		fields := strings.Fields(counters)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) < 10 {
			continue
		}
		in, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return c, fmt.Errorf("packets in of %s: %w", name, err)
		}
		out, err := strconv.ParseUint(fields[9], 10, 64)
		if err != nil {
			return c, fmt.Errorf("packets out of %s: %w", name, err)
		}
		c.in, c.out = c.in+in, c.out+out
	}
	return c, nil
}

// parseRetransmits finds RetransSegs in /proc/net/snmp, where a line of names
// stands above a line of values.
func parseRetransmits(text string) (uint64, error) {
	var names []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "Tcp:") {
			continue
		}
		if names == nil {
			names = strings.Fields(line)
			continue
		}
		values := strings.Fields(line)
		for i, name := range names {
			if name == "RetransSegs" && i < len(values) {
				return strconv.ParseUint(values[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("read TCP counters: no RetransSegs in /proc/net/snmp")
}
