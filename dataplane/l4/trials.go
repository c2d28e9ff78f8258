package l4

import (
	"fmt"
	"log/slog"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Trials loads each program of the engine alone, as Open with the default Options
// would, and attaches it for a moment to a cgroup of its own. Nothing stays.
func Trials() ([]kernel.Trial, error) {
	spec, err := loadMesh()
	if err != nil {
		return nil, fmt.Errorf("read mesh programs: %w", err)
	}
	e := &Engine{limits: Limits{}.withDefaults(), log: slog.New(slog.DiscardHandler)}
	if err := e.configure(spec, Options{}); err != nil {
		return nil, err
	}
	trials, err := kernel.TryPrograms(spec)
	if err != nil {
		return nil, fmt.Errorf("try mesh programs: %w", err)
	}
	return trials, nil
}
