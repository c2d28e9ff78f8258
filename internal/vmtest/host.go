package vmtest

import (
	"context"
	"os/exec"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// hostKernel is the name of the kernel that this process runs on.
const hostKernel = "host"

// host diagnoses the kernel of this machine, which promises nothing: whatever it
// has must work, within the budget.
func (r *runner) host(ctx context.Context) (*Diagnosed, []testsum.Case) {
	p := r.plan[0]
	run := p.guestRun()
	out, err := exec.CommandContext(ctx, r.files[guest.TestDir+"/"+p.binary()], run.Argv[1:]...).Output()
	j := judge{kernel: Kernel{Name: hostKernel}, budget: r.Budget, progress: r.Progress}
	if err != nil && len(out) == 0 {
		return nil, []testsum.Case{j.fail(doctorRun, err.Error(), "")}
	}
	d, ok := parseDiagnosis(hostKernel, string(out))
	if !ok {
		return nil, []testsum.Case{j.fail(doctorRun, "it said nothing that can be read", lastPart(string(out)))}
	}
	for _, f := range d.Features {
		if f.Outcome == kernel.Lacks {
			j.kernel.Lacks = append(j.kernel.Lacks, f.Name)
		}
	}
	return d, j.diagnosis(d)
}
