package hops

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// decode reads one event as the kernel's program wrote it.
func decode(b []byte) (Event, error) {
	var h hopsHop
	if err := binary.Read(bytes.NewReader(b), binary.NativeEndian, &h); err != nil {
		return Event{}, fmt.Errorf("read an event: %w", err)
	}
	has := func(flag hopsFlag) bool { return h.Flags&uint8(flag) != 0 }
	return Event{
		Kind: Kind(h.Kind), At: int64(h.At), Role: int(h.Role) - 1, Thread: h.Tid, NextRole: int(h.NextRole) - 1, Next: h.Next,
		Began: int64(h.Began), Number: int(h.Number), Value: int(h.Value),
		Sent: has(hopsFlagFLAG_SENT), Read: has(hopsFlagFLAG_READ), Sleeps: has(hopsFlagFLAG_SLEEPS),
	}, nil
}
