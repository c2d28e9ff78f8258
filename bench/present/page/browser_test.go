package page

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// browsers are the names under which a headless Chromium is found.
var browsers = []string{"chromium", "chromium-browser", "google-chrome", "chrome"}

// dark lets the browser prefer dark pages.
const dark = "--blink-settings=preferredColorScheme=0"

// look is put at the end of a page: it notes the colour of its paper, and says on the
// console what is on it when it is printed: charts that scripts have drawn, still
// pictures in their place, and the colour of the paper.
const look = `<script>
(() => {
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const seen = (what) => [...document.querySelectorAll(what)].filter((e) => getComputedStyle(e).display !== "none").length;
  document.documentElement.dataset.paper = paper();
  matchMedia("print").addEventListener("change", (e) => e.matches && console.log("printed:", seen(".uplot-box"), "drawn,", seen("svg.paper"), "still,", paper()));
})();
</script></body>`

// lookedAt writes the report of a whole run with that at its end.
func lookedAt(t *testing.T) (page string) {
	t.Helper()
	page = filepath.Join(t.TempDir(), "report.html")
	text := render(t, whole(t))
	if !strings.Contains(text, "</body>") {
		t.Fatal("the page has no end")
	}
	if err := os.WriteFile(page, []byte(strings.Replace(text, "</body>", look, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	return page
}

// TestPageInABrowser draws the page without network, light and dark: every chart must
// be there, and nothing may complain.
func TestPageInABrowser(t *testing.T) {
	for _, c := range []struct{ name, option, paper string }{
		{"light", "", "rgb(246, 247, 249)"}, {"dark", dark, "rgb(16, 20, 27)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dom, said := browse(t, lookedAt(t), "--dump-dom", c.option)
			if got := strings.Count(dom, "<canvas"); got != 5 {
				t.Errorf("%d of 5 charts were drawn", got)
			}
			if !strings.Contains(dom, `data-paper="`+c.paper+`"`) {
				t.Errorf("the paper is not %s", c.paper)
			}
			if strings.Contains(said, "CONSOLE") {
				t.Errorf("the console says:\n%s", said)
			}
		})
	}
}

// TestPagePrints makes a PDF of the page, whatever the browser prefers: on white paper,
// with a still picture for every chart, and nothing complains.
func TestPagePrints(t *testing.T) {
	for name, option := range map[string]string{"light": "", "dark": dark} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "report.pdf")
			_, said := browse(t, lookedAt(t), "--print-to-pdf="+file, option)
			pdf, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(pdf, []byte("%PDF-")) || !bytes.HasSuffix(bytes.TrimSpace(pdf), []byte("%%EOF")) || len(pdf) < 20_000 {
				t.Errorf("%d bytes are no whole PDF of a report", len(pdf))
			}
			if want := "printed: 0 drawn, 5 still, rgb(255, 255, 255)"; !strings.Contains(said, want) || strings.Count(said, "CONSOLE") != 1 {
				t.Errorf("want %q and nothing else on the console:\n%s", want, said)
			}
		})
	}
}

// TestBrowserComplains is the negative control: a script that fails is heard, on the
// screen and on paper.
func TestBrowserComplains(t *testing.T) {
	page := filepath.Join(t.TempDir(), "bad.html")
	if err := os.WriteFile(page, []byte("<!doctype html><script>nothing.there()</script>"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, act := range []string{"--dump-dom", "--print-to-pdf=" + filepath.Join(t.TempDir(), "bad.pdf")} {
		if _, said := browse(t, page, act, dark); !strings.Contains(said, "CONSOLE") {
			t.Errorf("%s: a failing script is not heard: %s", act, said)
		}
	}
}

// browse lets the browser do one act with a page and returns what it wrote, the page as
// it is after its scripts ran for example, and what it said.
func browse(t *testing.T, page, act, option string) (dom, said string) {
	t.Helper()
	for _, name := range browsers {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + t.TempDir(), "--enable-logging=stderr", act}
		if option != "" {
			args = append(args, option)
		}
		cmd := exec.CommandContext(t.Context(), path, append(args, "file://"+page)...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v: %s", path, err, &errs)
		}
		return out.String(), errs.String()
	}
	t.Skipf("NOT RUN: no browser (%s) is installed", strings.Join(browsers, ", "))
	return "", ""
}
