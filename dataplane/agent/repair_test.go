package agent

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/dataplane"
)

// What somebody takes out of the kernel's maps is put there again by the next audit,
// and the agent says so.
func TestAuditRepairs(t *testing.T) {
	g := newGround(t)
	cfg := g.config(t)
	cfg.Audit = 10 * time.Millisecond
	r := g.startAs(t, cfg)
	r.apply(web("one", "10.1.0.1"))
	eventually(t, "an audit", func() bool { return r.status().Audit != nil })
	if n := r.status().Audit.Repaired; n != 0 {
		t.Errorf("%d differences were repaired before there were any", n)
	}
	frontends, err := ebpf.LoadPinnedMap(filepath.Join(dataplane.Pins(g.bpffs), "frontends"), nil)
	must(t, err)
	defer frontends.Close()
	key := first(t, frontends)
	must(t, frontends.Delete(key))
	eventually(t, "a repair", func() bool { return r.status().Audit.Repaired == 1 })
	if again := first(t, frontends); !bytes.Equal(again, key) {
		t.Error("the entry is not there again")
	}
	if a := r.status().Audit; a.Differences != 0 || a.Error != "" || a.RepairedAt.IsZero() {
		t.Errorf("audit %+v", a)
	}
}

// first is the key of any entry of a map.
func first(t *testing.T, m *ebpf.Map) []byte {
	t.Helper()
	var key, value []byte
	entries := m.Iterate()
	if !entries.Next(&key, &value) {
		t.Fatal("the map is empty", entries.Err())
	}
	return key
}
