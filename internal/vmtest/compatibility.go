package vmtest

import (
	"fmt"
	"os"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
)

const compatibilityHead = `# Compatibility

Written by ` + "`make compatibility`" + `, from running every program and feature in the
kernels below, in virtual machines. Do not edit: change internal/vmtest and run it
again. ` + "`duomesh doctor`" + ` prints the same of your own machine.

✓ works, ⊘ this kernel has no such thing, ✗ fails.
`

const compatibilityTail = `
## What duomesh does without them

| lacking | what happens |
|---|---|
| set_retval (before 5.18) | a refused connection gets EPERM instead of ECONNREFUSED |
| cgroup getpeername (before 5.8) | the engine does not open with the default options; with HidePeer it does |
| netns cookie (before 5.14) | pods cannot be enrolled: the engine refuses, naming it |
| tcx (before 6.6) | the judge counts packets by a clsact filter |
| kprobe.multi, kprobe, fentry | the judge observes by tp_btf or raw_tp; functions of the kernel cannot be named |
| BTF | the engine works whole; the judge and what needs it (verify, probe) refuse, naming it |
| header options (before 5.10), netns cookie in sockops (before 5.15) | services with a waypoint are refused, naming it |
| setting callback flags from an iterator (before 6.12), BTF | a waypoint's listener that is older than its entry cannot be prepared: ServeWaypoint says so |
| MPTCP | such sockets cannot be made, so there are none to redirect |

Not redirected by any kernel: ExternalName services, NodePort and external load
balancer addresses that the workload API does not name. Such connections pass as
they are.
`

// WriteCompatibility writes docs/compatibility.md from what was found.
func WriteCompatibility(path string, kernels []Diagnosed) error {
	var b strings.Builder
	b.WriteString(compatibilityHead)
	b.WriteString("\n## Kernels\n\n")
	markdown(&b, []string{"name", "release", "architecture"}, kernelRows(kernels))
	b.WriteString("\n## Features\n\nThe release is that in which Linux got it.\n\n")
	markdown(&b, heads("feature", "since", kernels), featureRowsSince(kernels))
	b.WriteString("\n## Programs\n\nBeside the mark: instructions that the verifier processed.\n\n")
	markdown(&b, heads("program", "", kernels), plainRows(programRows(kernels)))
	b.WriteString("\n## Reasons\n\n")
	for _, r := range reasons(kernels) {
		fmt.Fprintf(&b, "- %s\n", r)
	}
	b.WriteString("\n## What is used where\n\n")
	markdown(&b, heads("to", "", kernels), plainRows(useRows(kernels)))
	b.WriteString(compatibilityTail)
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write compatibility table: %w", err)
	}
	return nil
}

func heads(first, second string, kernels []Diagnosed) []string {
	h := []string{first}
	if second != "" {
		h = append(h, second)
	}
	for _, k := range kernels {
		h = append(h, k.Kernel)
	}
	return h
}

func kernelRows(kernels []Diagnosed) [][]string {
	var all [][]string
	for _, k := range kernels {
		release := k.Diagnosis.Kernel
		if k.Kernel == hostKernel {
			// What follows is that machine's own affair.
			release, _, _ = strings.Cut(release, "-")
			release += " (not in a virtual machine)"
		}
		all = append(all, []string{k.Kernel, release, k.Machine})
	}
	return all
}

func featureRowsSince(kernels []Diagnosed) [][]string {
	since := map[string]string{}
	for _, f := range kernel.Features() {
		since[f.Name] = f.Since
	}
	var all [][]string
	for _, r := range featureRows(kernels) {
		all = append(all, append([]string{r.name, since[r.name]}, r.cells...))
	}
	return all
}

func plainRows(rows []matrixRow) [][]string {
	var all [][]string
	for _, r := range rows {
		all = append(all, append([]string{r.name}, r.cells...))
	}
	return all
}

// useRows are the ways that duomesh takes, by what for.
func useRows(kernels []Diagnosed) []matrixRow {
	uses := func(d Diagnosed) []kernel.Trial {
		var all []kernel.Trial
		for _, u := range d.Uses {
			all = append(all, kernel.Trial{Name: u.For, Reason: u.By})
		}
		return all
	}
	return rows(kernels, uses, func(t kernel.Trial) string {
		if t.Reason == "" {
			return marks[kernel.Lacks]
		}
		return t.Reason
	})
}

func markdown(b *strings.Builder, head []string, rows [][]string) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat("---|", len(head)))
	for _, r := range rows {
		fmt.Fprintf(b, "| %s |\n", strings.Join(r, " | "))
	}
}
