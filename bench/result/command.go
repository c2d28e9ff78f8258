package result

import (
	"fmt"
	"strings"

	"github.com/duomesh/duomesh/bench/plan"
)

// Command is what makes the same run again: the same load, order and number of blocks.
// What is as it is by default is left out.
func Command(s Summary) string {
	p, usual := s.Plan, plan.Default()
	args := []string{"sudo duomesh bench", "--variants " + list(p.Variants), "--modes " + list(p.Modes)}
	add := func(given bool, flag string, value any) {
		if given {
			args = append(args, fmt.Sprintf("--%s %v", flag, value))
		}
	}
	switch { // sudo keeps no environment
	case p.World == plan.Kubernetes: // with its own ztunnel
		args = append(args, `--kubeconfig "$KUBECONFIG"`)
	case p.Needs(plan.NeedsZtunnel):
		args = append(args, `--ztunnel "$ZTUNNEL_BIN"`)
	}
	add(len(p.Placements) == 2, "placement", "both")
	add(len(p.Placements) == 1 && p.Placements[0] == plan.Same, "placement", plan.Same)
	blocks := p.Blocks
	if s.Complete {
		blocks = s.Blocks
	}
	add(blocks > 0, "blocks", blocks)
	add(blocks == 0, "budget", p.Budget)
	args = append(args, fmt.Sprintf("--duration %v", p.Duration), fmt.Sprintf("--seed %d", p.Seed))
	add(p.Warmup != usual.Warmup, "warmup", p.Warmup)
	add(p.Load.PerSecond != usual.Load.PerSecond, "rate", p.Load.PerSecond)
	add(p.Load.Connections != usual.Load.Connections, "connections", p.Load.Connections)
	add(p.Load.PayloadBytes != usual.Load.PayloadBytes, "payload", p.Load.PayloadBytes)
	add(p.Load.ReplyBytes != usual.Load.ReplyBytes, "reply", p.Load.ReplyBytes)
	add(p.Load.MaxProcs != usual.Load.MaxProcs, "procs", p.Load.MaxProcs)
	add(p.ForeignLimit != usual.ForeignLimit, "foreign", p.ForeignLimit)
	add(p.Repeats != usual.Repeats, "repeats", p.Repeats)
	if p.Splits != usual.Splits {
		args = append(args, fmt.Sprintf("--splits=%v", p.Splits))
	}
	if h := p.Handicap; h != nil {
		args = append(args, fmt.Sprintf("--handicap %s=%v", h.Variant, h.Delay))
	}
	return strings.Join(args, " ")
}

func list[T ~string](all []T) string {
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = string(a)
	}
	return strings.Join(names, ",")
}
