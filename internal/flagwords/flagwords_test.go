package flagwords

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

type picky struct{}

func (picky) String() string   { return "" }
func (picky) Set(string) error { return errors.New("want a colour") }
func (picky) Type() string     { return "COLOUR" }

func TestPlain(t *testing.T) {
	set := pflag.NewFlagSet("x", pflag.ContinueOnError)
	set.Uint32("max", 1, "")
	set.Bool("force", false, "")
	set.IntP("repeat", "r", 1, "")
	set.Uint16("port", 1, "")
	set.Float64("tolerance", 1, "")
	set.Duration("for", time.Second, "")
	set.Var(picky{}, "colour", "")
	for args, want := range map[string]string{
		"--max abc":         "--max abc: want a whole number from 0 to 4294967295",
		"--max -1":          "--max -1: want a whole number from 0 to 4294967295",
		"--max 99999999999": "--max 99999999999: want a whole number from 0 to 4294967295",
		"--force=2":         "--force 2: want true or false",
		"-r x":              "--repeat x: want a whole number",
		"--port 70000":      "--port 70000: want a whole number from 0 to 65535",
		"--tolerance x":     "--tolerance x: want a number",
		"--for 5":           "--for 5: want a duration, such as 500ms, 30s or 5m",
		"--colour 7":        "--colour 7: want a colour",
		"--none":            "unknown flag: --none",
	} {
		err := Plain(set.Parse(strings.Fields(args)))
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", args, err, want)
		}
	}
	if err := Plain(nil); err != nil {
		t.Errorf("got %v of nothing", err)
	}
}
