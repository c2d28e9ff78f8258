package load

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// linkCounts is what the network namespace of this process has counted.
type linkCounts struct{ in, out, retransmits, timeWaits uint64 }

func (c linkCounts) since(before linkCounts) linkCounts {
	return linkCounts{
		in: c.in - before.in, out: c.out - before.out,
		retransmits: c.retransmits - before.retransmits, timeWaits: c.timeWaits - before.timeWaits,
	}
}

// readLinkCounts reads packets of all links other than loopback, TCP's
// retransmitted segments, and what was refused for a connection in TIME_WAIT.
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
	if c.retransmits, err = parseCounter(string(snmp), "Tcp:", "RetransSegs"); err != nil {
		return c, err
	}
	extended, err := os.ReadFile("/proc/self/net/netstat")
	if err != nil {
		return c, fmt.Errorf("read TCP counters: %w", err)
	}
	// Kernels before 6.13 do not count it apart.
	if strings.Contains(string(extended), " PAWSTimewait") {
		c.timeWaits, err = parseCounter(string(extended), "TcpExt:", "PAWSTimewait")
	}
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

// parseCounter finds a counter of /proc/net/snmp or netstat, where a line of names
// stands above a line of values.
func parseCounter(text, group, counter string) (uint64, error) {
	var names []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, group) {
			continue
		}
		if names == nil {
			names = strings.Fields(line)
			continue
		}
		values := strings.Fields(line)
		for i, name := range names {
			if name == counter && i < len(values) {
				return strconv.ParseUint(values[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("read TCP counters: there is no %s %s", group, counter)
}
