package admin

import (
	"time"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// Applied describes a Snapshot that the kernel has got just now.
func Applied(s intent.Snapshot, generation uint64, version string) api.Applied {
	return api.Applied{
		Generation: generation, Version: version, At: time.Now(),
		Services: len(s.Services), Workloads: len(s.Workloads), Conflicts: conflicts(s),
	}
}
