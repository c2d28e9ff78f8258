package testsum

import (
	"bytes"
	"encoding/xml"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/ginkgo/v2/reporters"
)

// runDir runs the package testdata/name and returns its cases as "outcome name".
func runDir(t *testing.T, run string, names ...string) ([]Case, []string, Config) {
	t.Helper()
	c := Config{Go: "go", Out: t.TempDir(), Run: run, Progress: new(bytes.Buffer), Timeout: time.Minute}
	for _, name := range names {
		c.Packages = append(c.Packages, "./testdata/"+name)
	}
	cases, err := Run(t.Context(), c)
	if err != nil {
		t.Fatalf("run: %v\n%s", err, c.Progress)
	}
	var got []string
	for _, k := range cases {
		got = append(got, map[Outcome]string{Passed: "pass ", Failed: "FAIL ", Skipped: "skip "}[k.Outcome]+k.Name+after(k.Reason))
	}
	slices.Sort(got)
	return cases, got, c
}

func TestRunCountsLeavesAndSpecs(t *testing.T) {
	for _, tt := range []struct {
		dir  string
		run  string
		want []string
		ok   bool
	}{
		{dir: "plain", ok: true, want: []string{
			"pass TestPass", "pass TestTree/a",
			"skip TestSkip: no reason given", "skip TestTree/b: NOT RUN: no such kernel",
		}},
		{dir: "plain", run: "TestPass", ok: true, want: []string{"pass TestPass"}},
		{dir: "plain", run: "TestSkip", want: []string{"skip TestSkip: no reason given"}},
		{dir: "plain", run: "TestNothing", want: nil},
		{dir: "broken", want: []string{
			"FAIL TestParent", "FAIL TestTree/bad", "pass TestParent/good", "pass TestTree/good",
		}},
		{dir: "dies", want: []string{"FAIL TestDies: ended without a result", "pass TestBefore"}},
		{dir: "nobuild", want: []string{"FAIL (package): does not build"}},
		{dir: "suite", want: []string{
			"FAIL thing breaks: broken here", "pass TestBeside", "pass thing works", "pass thing works too",
			"skip thing cannot: NOT RUN: no kernel", "skip thing will: pending",
		}},
		{dir: "suite", run: "works", ok: true, want: []string{"pass TestBeside", "pass thing works", "pass thing works too", "skip thing will: pending"}},
		{dir: "suitesetup", want: []string{"FAIL BeforeSuite: no ground to stand on"}},
	} {
		t.Run(tt.dir+" "+tt.run, func(t *testing.T) {
			cases, got, _ := runDir(t, tt.run, tt.dir)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("cases (-want +got):\n%s", diff)
			}
			if ok := Count(cases).OK(); ok != tt.ok {
				t.Errorf("OK is %v, want %v", ok, tt.ok)
			}
		})
	}
}

func TestRunSuiteThatDiesHasFailed(t *testing.T) {
	cases, got, _ := runDir(t, "", "suitedies")
	if len(got) == 0 || Count(cases).Failed != len(got) || Count(cases).OK() {
		t.Errorf("a suite that was killed gave %q", got)
	}
}

func TestRunWritesEvidence(t *testing.T) {
	cases, _, c := runDir(t, "", "plain", "broken", "suite")
	raw, err := os.ReadFile(filepath.Join(c.Out, "junit.xml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc reporters.JUnitTestSuites
	if err := xml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	want := Count(cases)
	if doc.Tests != len(cases) || doc.Failures != want.Failed || doc.Disabled != want.Skipped || len(doc.TestSuites) != 3 {
		t.Errorf("junit has %d tests, %d failures, %d skipped in %d suites; want %v in 3",
			doc.Tests, doc.Failures, doc.Disabled, len(doc.TestSuites), want)
	}
	progress := c.Progress.(*bytes.Buffer).String()
	for _, want := range []string{"ok   github.com/duomesh", "FAIL github.com/duomesh", "the leaf is bad", "only the parent is bad", "broken here"} {
		if !strings.Contains(progress, want) {
			t.Errorf("progress does not show %q", want)
		}
	}
}

func TestRunNamesAPackageThatIsNotThere(t *testing.T) {
	_, err := Run(t.Context(), Config{Go: "go", Out: t.TempDir(), Packages: []string{"./nowhere"}, Progress: new(bytes.Buffer)})
	if err == nil || !strings.Contains(err.Error(), "./nowhere") {
		t.Errorf("error is %v, want one that names ./nowhere", err)
	}
}
