package l7

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// listening reports whether a TCP port of this network namespace is listened on. It
// reads what the kernel says and asks nobody: a connect would be counted by Envoy as
// one that nobody was meant to make.
func listening(port uint16) (bool, error) {
	end := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(table)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return false, fmt.Errorf("listeners of this pod: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			// "sl local_address rem_address st": proc(5); 0A is LISTEN.
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "0A" && strings.HasSuffix(f[1], end) {
				return true, nil
			}
		}
	}
	return false, nil
}
