package testsum

import (
	"encoding/json"
	"fmt"
	"time"
)

// event is one line of `go test -json` (go doc cmd/test2json, and `go help
// buildjson` for the build's own events).
type event struct {
	Time    time.Time
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
	// ImportPath is set in place of Package by build-output and build-fail.
	ImportPath string
	// FailedBuild is the ImportPath of the build that made a package fail.
	FailedBuild string
}

// The actions that are acted upon.
const (
	actionRun         = "run"
	actionOutput      = "output"
	actionPass        = "pass"
	actionFail        = "fail"
	actionSkip        = "skip"
	actionBuildOutput = "build-output"
)

func parseEvent(line []byte) (event, error) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return event{}, fmt.Errorf("read test event: %w", err)
	}
	return e, nil
}

func (e event) elapsed() time.Duration {
	return time.Duration(e.Elapsed * float64(time.Second))
}
