package vmtest

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

func caseNamed(t *testing.T, cases []testsum.Case, name string) testsum.Case {
	t.Helper()
	for _, c := range cases {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no case %s in %+v", name, cases)
	return testsum.Case{}
}

func outcomeIs(t *testing.T, c testsum.Case, want testsum.Outcome, says ...string) {
	t.Helper()
	for _, s := range says {
		if !strings.Contains(c.Reason+"\n"+c.Output, s) {
			t.Errorf("case %s does not say %q: %s\n%s", c.Name, s, c.Reason, c.Output)
		}
	}
	if c.Outcome != want {
		t.Errorf("case %s: outcome %d, want %d (%s)", c.Name, c.Outcome, want, c.Reason)
	}
}

func TestPromises(t *testing.T) {
	k := Kernel{Name: "k", Promises: []string{"has", "broken", "absent"}, Lacks: []string{"without", "surprise"}}
	cases := k.promised([]kernel.Trial{
		{Name: "has", Outcome: kernel.Works}, {Name: "broken", Outcome: kernel.Fails, Reason: "why"},
		{Name: "without", Outcome: kernel.Lacks}, {Name: "surprise", Outcome: kernel.Works},
	})
	outcomeIs(t, caseNamed(t, cases, "promised: has"), testsum.Passed)
	outcomeIs(t, caseNamed(t, cases, "promised: broken"), testsum.Failed, "kernel k promises broken", "why")
	outcomeIs(t, caseNamed(t, cases, "promised: absent"), testsum.Failed, "doctor does not know it")
	outcomeIs(t, caseNamed(t, cases, "lacking: without"), testsum.Passed)
	outcomeIs(t, caseNamed(t, cases, "lacking: surprise"), testsum.Failed, "kernel k lacks surprise")
}

func TestProgramsAndBudget(t *testing.T) {
	j := judge{kernel: Kernel{Name: "k", Lacks: []string{"tcx"}}, budget: Budget{"fits": 100, "grown": 100}}
	for _, c := range []struct {
		trial kernel.Trial
		want  testsum.Outcome
		says  []string
	}{
		{kernel.Trial{Name: "fits", Outcome: kernel.Works, Instructions: 100}, testsum.Passed, nil},
		{kernel.Trial{Name: "grown", Outcome: kernel.Works, Instructions: 101}, testsum.Failed, []string{"kernel k", "101 instructions of program grown", "budget is 100"}},
		{kernel.Trial{Name: "new", Outcome: kernel.Works, Instructions: 1}, testsum.Failed, []string{"no verifier budget"}},
		{kernel.Trial{Name: "fits", Outcome: kernel.Works}, testsum.Failed, []string{"not known"}},
		{kernel.Trial{Name: "fits", Outcome: kernel.Lacks, Needs: []string{"tcx"}, Reason: "not supported"}, testsum.Passed, nil},
		{kernel.Trial{Name: "fits", Outcome: kernel.Lacks, Needs: []string{"kprobe"}}, testsum.Failed, []string{"kernel k", "program fits"}},
		{
			kernel.Trial{Name: "fits", Hook: "cgroup/connect4", Outcome: kernel.Fails, Reason: "load: invalid argument", Log: []string{"invalid bpf_context access off=24"}},
			testsum.Failed, []string{"kernel k", "program fits (cgroup/connect4)", "load: invalid argument", "invalid bpf_context access off=24"},
		},
	} {
		outcomeIs(t, j.program(c.trial), c.want, c.says...)
	}
	lacking := j.program(kernel.Trial{Name: "fits", Outcome: kernel.Lacks, Needs: []string{"BTF", "tcx"}})
	if lacking.Name != "fits: refused for want of tcx" {
		t.Errorf("a program that the kernel cannot have is called %q", lacking.Name)
	}
	stale := j.budget.stale([]Diagnosed{{Diagnosis: kernel.Diagnosis{Engine: []kernel.Trial{{Name: "fits"}}}}})
	outcomeIs(t, caseNamed(t, stale, "grown"), testsum.Failed, "does not exist")
	if len(stale) != 1 {
		t.Errorf("stale entries %+v, want only grown", stale)
	}
}

func TestSettle(t *testing.T) {
	k := Kernel{Name: "k", Lacks: []string{"kprobe.multi", "BTF"}}
	for reason, want := range map[string]testsum.Outcome{
		"NOT RUN: BTF: not supported":                     testsum.Skipped,
		"NOT RUN: duomesh: this kernel lacks BTF: no BTF": testsum.Skipped,
		"NOT RUN: kprobe.multi: not supported":            testsum.Skipped,
		"NOT RUN: kprobe: not supported":                  testsum.Failed,
		"NOT RUN: tcx: no kprobe.multi.session":           testsum.Failed,
		"NOT RUN: NOBTF: x":                               testsum.Failed,
		"BTF is missing":                                  testsum.Failed,
		"":                                                testsum.Failed,
	} {
		got := k.settle([]testsum.Case{{Name: reason, Outcome: testsum.Skipped, Reason: reason}})[0]
		outcomeIs(t, got, want)
	}
}

// A promised way whose providers attach and see nothing has shown nothing.
func TestFires(t *testing.T) {
	k := Kernel{Name: "k", Promises: []string{"BTF", "kprobe", "fentry", "kprobe.multi"}}
	one := took{events: map[string]uint64{}}
	one.count("    x_test.go:1: provider fentry/tcp_set_state fired: 14 events\n    x_test.go:1: provider kprobe fired: 0 events\n")
	one.count("    x_test.go:1: provider fentry fired: 6 events\n    x_test.go:1: provider kprobe.multi/tcp_set_state fired: 2 events\n")
	plan := []program{{name: probeRun}}
	cases := k.fires(plan, one.events)
	outcomeIs(t, caseNamed(t, cases, "fires: fentry"), testsum.Passed)
	outcomeIs(t, caseNamed(t, cases, "fires: kprobe.multi"), testsum.Passed)
	outcomeIs(t, caseNamed(t, cases, "fires: kprobe"), testsum.Failed, "kernel k promises kprobe", "no provider of it saw an event")
	if len(cases) != 3 || len(k.fires(nil, nil)) != 0 {
		t.Errorf("%+v, want a case of each way that is promised, and none where no provider is tested", cases)
	}
	var told strings.Builder
	one.kernel, one.runs = "k", []runTime{{probeRun, 1500 * time.Millisecond}}
	printTook(&told, []took{one, {kernel: "l"}})
	for _, want := range []string{"internal/probe", "1.5", "fentry/tcp_set_state", "14"} {
		if !strings.Contains(told.String(), want) {
			t.Errorf("no %q in:\n%s", want, told.String())
		}
	}
}

const passing = "\x16=== RUN   TestA\n\x16--- PASS: TestA (0.00s)\n\x16PASS\n"

func TestOutputOfTests(t *testing.T) {
	run := guest.Run{Name: "pkg"}
	for name, c := range map[string]struct {
		records []guest.Record
		failed  int
		says    string
	}{
		"passed":    {[]guest.Record{{Kind: guest.Output, Data: passing}, {Kind: guest.End}}, 0, ""},
		"exit code": {[]guest.Record{{Kind: guest.Output, Data: passing}, {Kind: guest.End, Exit: 3}}, 1, "exit code 3"},
		"no test":   {[]guest.Record{{Kind: guest.Output, Data: "\x16PASS\n"}, {Kind: guest.End}}, 1, "it ran no test"},
		"cut off":   {[]guest.Record{{Kind: guest.Output, Data: passing}}, 1, "it did not end"},
		"timed out": {[]guest.Record{{Kind: guest.Output, Data: passing}, {Kind: guest.End, TimedOut: true, Elapsed: 1e9, Exit: 137}}, 1, "had not ended after 1s"},
		"failed": {[]guest.Record{
			{Kind: guest.Output, Data: "\x16=== RUN   TestB\n    x_test.go:1: no\n\x16--- FAIL: TestB (0.00s)\n\x16FAIL\n"},
			{Kind: guest.End, Exit: 1},
		}, 1, "x_test.go:1: no"},
		"died": {[]guest.Record{{Kind: guest.Output, Data: "\x16=== RUN   TestC\npanic: oh\n"}, {Kind: guest.End, Exit: 2}}, 1, "oh"},
	} {
		t.Run(name, func(t *testing.T) {
			records := []guest.Record{{Kind: guest.Start, Name: "pkg"}}
			for _, r := range c.records {
				r.Name = "pkg"
				records = append(records, r)
			}
			j := judge{kernel: Kernel{Name: "k"}, progress: io.Discard, goCommand: "go"}
			cases := j.tests(t.Context(), program{name: "pkg", test: true}, results([]guest.Run{run}, records)["pkg"])
			if got := testsum.Count(cases).Failed; got != c.failed {
				t.Fatalf("%d failed, want %d: %+v", got, c.failed, cases)
			}
			for _, one := range cases {
				if one.Outcome == testsum.Failed {
					outcomeIs(t, one, testsum.Failed, c.says)
				}
			}
		})
	}
}

func TestScenariosAndDoctorOutput(t *testing.T) {
	j := judge{kernel: Kernel{Name: "k"}}
	verdicts := `seed 1
{"scenario":"a","verdict":"pass"}
{"scenario":"b","verdict":"fail","checks":[{"name":"rule","verdict":"fail","detail":"broken"}]}
{"scenario":"c","verdict":"inconclusive","reason":"lost"}
{"scenario":"d","verdict":"not-run","reason":"BTF: none"}
`
	cases := j.scenarios(verifyRun, []string{"a", "b", "c", "d", "e"}, &result{output: verdicts})
	outcomeIs(t, caseNamed(t, cases, "a"), testsum.Passed)
	outcomeIs(t, caseNamed(t, cases, "b"), testsum.Failed, "rule: broken")
	outcomeIs(t, caseNamed(t, cases, "c"), testsum.Failed, "lost")
	outcomeIs(t, caseNamed(t, cases, "d"), testsum.Skipped, "NOT RUN: BTF: none")
	outcomeIs(t, caseNamed(t, cases, "e"), testsum.Failed, "asked for and not judged")
	if len(cases) != 5 {
		t.Errorf("%d cases, want 5: %+v", len(cases), cases)
	}
	died := j.scenarios(verifyRun, []string{"a"}, &result{output: verdicts[:strings.Index(verdicts, `{"scenario":"b"`)], exit: 2})
	outcomeIs(t, caseNamed(t, died, "(run)"), testsum.Failed, "exit code 2")
	outcomeIs(t, j.scenarios(verifyRun, nil, &result{output: "nothing"})[0], testsum.Failed, "it judged no scenario")
	refused := j.scenarios(verifyRun, []string{"a"}, &result{output: "duomesh: this kernel lacks BTF: none\n", exit: 2})
	outcomeIs(t, refused[0], testsum.Skipped, "this kernel lacks BTF")

	outcomeIs(t, j.doctor(&result{output: "segmentation fault"})[0], testsum.Failed, "nothing that can be read")
	text, err := json.Marshal(kernel.Diagnosis{Schema: kernel.DiagnosisSchema, Version: kernel.DiagnosisVersion + 1})
	if err != nil {
		t.Fatal(err)
	}
	outcomeIs(t, j.doctor(&result{output: string(text)})[0], testsum.Failed, "nothing that can be read")
}

// The controls pass on what a kernel really says, and fail where a refusal or a broken
// promise would not be told.
func TestToldControls(t *testing.T) {
	j := judge{kernel: Kernel{Name: "k", Lacks: []string{"tcx"}}}
	trial := func(name, log string) string {
		text, err := json.Marshal(kernel.Trial{
			Name: name, Hook: "cgroup/connect4", Outcome: kernel.Fails, Reason: "the verifier refuses it: " + log, Log: []string{log},
		})
		if err != nil {
			t.Fatal(err)
		}
		return "    trial_test.go:77: broken program " + string(text) + "\n"
	}
	large, access := trial("too_complex", "BPF program is too large. Processed 1000001 insn"), trial("wrong_context", "invalid bpf_context access off=28")
	cases, told := j.refusals("=== RUN\n" + large + access)
	if testsum.Count(cases).Failed > 0 || len(told) != 2 || !strings.Contains(told[1], "kernel k: program wrong_context (cgroup/connect4) fails") {
		t.Errorf("%+v, %q", cases, told)
	}
	for says, output := range map[string]string{
		"it was not tried": large,
		"told as":          large + trial("wrong_context", "another word"),
		"outcome 0":        large + strings.ReplaceAll(access, string(kernel.Fails), string(kernel.Works)),
	} {
		cases, _ := (&judge{kernel: j.kernel, budget: Budget{"wrong_context": 5}}).refusals(strings.ReplaceAll(output, `"log"`, `"instructions":5,"log"`))
		outcomeIs(t, caseNamed(t, cases, "a broken program is a failure: wrong_context"), testsum.Failed, says)
	}

	d := &Diagnosed{Diagnosis: kernel.Diagnosis{
		Features: []kernel.Trial{{Name: "tcx", Outcome: kernel.Lacks, Reason: "not supported"}},
		Engine:   []kernel.Trial{{Name: "p", Outcome: kernel.Works, Instructions: 9}},
	}}
	cases, told = j.unkept(d)
	if testsum.Count(cases).Failed > 0 || len(cases) != 2 || len(told) != 2 ||
		!strings.Contains(told[0], "kernel k promises tcx, and it does not work: lacks: not supported") ||
		!strings.Contains(told[1], "9 instructions of program p, the budget is 8") {
		t.Errorf("%+v, %q", cases, told)
	}
	d.Features[0].Outcome, d.Engine = kernel.Works, nil
	cases, _ = j.unkept(d)
	if testsum.Count(cases).Failed != 2 {
		t.Errorf("nothing can fail here: %+v", cases)
	}
}
