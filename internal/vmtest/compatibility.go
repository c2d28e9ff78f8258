package vmtest

import (
	"cmp"
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
| cgroup getpeername (before 5.8), cgroup sock_release (before 5.9) | the engine does not open with the default options, naming it; with HidePeer it does |
| netns cookie (before 5.14) | no pod can be enrolled: the engine does not open, naming it |
| sock_destroy (before 6.5) | a connected UDP socket keeps the endpoint that it has, also one that has left, until it is closed |
| counts of missed kprobes and tracepoints (before 6.7) | where the judge has nothing better than these, it says so and its verdicts are inconclusive |
| tcx (before 6.6) | the judge counts packets by a clsact filter |
| kprobe.multi, kprobe, fentry | the judge observes by tp_btf or raw_tp; duomesh probe refuses --stack and --functions |
| BTF | the engine works whole; the judge and what needs it (verify, probe) refuse, naming it |
| header options (before 5.10), netns cookie in sockops (before 5.15) | services with a waypoint are refused, naming it |
| setting callback flags from an iterator (before 6.12), BTF | a waypoint's listener that is older than its entry cannot be prepared: ServeWaypoint says so |
| MPTCP | such sockets cannot be made, so there are none to redirect |

Not redirected by any kernel: ExternalName services, NodePort and external load
balancer addresses that the workload API does not name. Such connections pass as
they are.
`

const featuresHead = `
## Features

The release is that in which Linux got it: seen where one of these kernels has it and
an older one lacks it, else as the kernel's documentation and history say.

`

// WriteCompatibility writes docs/compatibility.md from what was found.
func WriteCompatibility(path string, kernels []Diagnosed) error {
	var b strings.Builder
	b.WriteString(compatibilityHead)
	b.WriteString("\n## Kernels\n\n")
	markdown(&b, []string{"name", "release", "architecture"}, kernelRows(kernels))
	b.WriteString(featuresHead)
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
		all = append(all, append([]string{r.name, confirmed(since[r.name], r.name, kernels)}, r.cells...))
	}
	return all
}

// confirmed says of a documented release what was seen: the last older kernel that
// lacks the feature and the first one since then that has it.
func confirmed(since, feature string, kernels []Diagnosed) string {
	if since == "" {
		return ""
	}
	var before, after version
	for _, k := range kernels {
		v := versionOf(k.Diagnosis.Kernel)
		for _, t := range k.Features {
			switch {
			case t.Name != feature:
			case t.Outcome == kernel.Lacks && v.compare(versionOf(since)) < 0 && v.compare(before) > 0:
				before = v
			case t.Outcome == kernel.Works && (after == version{} || v.compare(after) < 0):
				after = v
			}
		}
	}
	if before == (version{}) || after == (version{}) {
		return since + " (documented)"
	}
	return fmt.Sprintf("%s (seen: not in %s, in %s)", since, before, after)
}

// version is a kernel's, without its patch level.
type version struct{ major, minor int }

func versionOf(release string) version {
	var v version
	_, _ = fmt.Sscanf(release, "%d.%d", &v.major, &v.minor) // else it is 0.0
	return v
}

func (v version) compare(o version) int {
	return cmp.Or(cmp.Compare(v.major, o.major), cmp.Compare(v.minor, o.minor))
}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func plainRows(rows []matrixRow) [][]string {
	var all [][]string
	for _, r := range rows {
		all = append(all, append([]string{r.name}, r.cells...))
	}
	return all
}

// ofMachine is what doctor says of a machine, whatever its kernel.
const ofMachine = "run a waypoint"

// useRows are the ways that duomesh takes, by what for.
func useRows(kernels []Diagnosed) []matrixRow {
	uses := func(d Diagnosed) []kernel.Trial {
		var all []kernel.Trial
		for _, u := range d.Uses {
			if u.For == ofMachine {
				continue
			}
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
