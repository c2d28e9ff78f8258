package load

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"fortio.org/fortio/periodic"
)

// Sample is one request. Times are from the start of the run.
type Sample struct {
	Thread    int
	Iteration int
	// Intended is when the schedule wanted the request to leave; equal to
	// Start in a closed loop, which has no schedule.
	Intended time.Duration
	// Start is when it really left, Latency how long the answer took from then:
	// the service time.
	Start   time.Duration
	Latency time.Duration
	// Code is the HTTP status; -1 is a socket error.
	Code int
}

// Response is the time from when the request was planned to its answer. A
// request that had to wait for a late one before it carries that wait, as a
// user would: no coordinated omission.
func (s Sample) Response() time.Duration { return s.Start + s.Latency - s.Intended }

// recorder takes every request from fortio. Each thread writes its own slice.
type recorder struct {
	spec    Spec
	base    time.Time
	threads [][]Sample
	// most is how many each thread may have; full then ends the load.
	most int
	full *periodic.Aborter
}

var _ periodic.AccessLogger = (*recorder)(nil)

// newRecorder makes room before the run, so that the run rarely allocates.
func newRecorder(s Spec) *recorder {
	const closedLoopPerSecond = 16000
	per := int(closedLoopPerSecond*s.Duration.Seconds())/max(s.Threads, 1) + 1
	if s.PerSecond > 0 {
		per = s.slots() + 1
	}
	r := &recorder{spec: s, base: time.Now(), threads: make([][]Sample, max(s.Threads, 1)), most: math.MaxInt}
	if s.MaxCalls > 0 {
		r.most = s.MaxCalls / len(r.threads)
	}
	for i := range r.threads {
		r.threads[i] = make([]Sample, 0, min(per, r.most))
	}
	return r
}

// isFull says whether a thread has made more requests than it may.
func (r *recorder) isFull() bool {
	return slices.ContainsFunc(r.threads, func(t []Sample) bool { return len(t) > r.most })
}

// Start implements periodic.AccessLogger.
func (r *recorder) Start(ctx context.Context, _ periodic.ThreadID, _ int64, _ time.Time) context.Context {
	return ctx
}

// Report implements periodic.AccessLogger.
func (r *recorder) Report(_ context.Context, t periodic.ThreadID, i int64, start time.Time, seconds float64, _ bool, code string) {
	status, err := strconv.Atoi(code)
	if err != nil {
		status = -1
	}
	r.threads[t] = append(r.threads[t], Sample{
		Thread:    int(t),
		Iteration: int(i),
		Start:     start.Sub(r.base),
		Latency:   time.Duration(seconds * float64(time.Second)),
		Code:      status,
	})
	if len(r.threads[t]) > r.most {
		r.full.Abort(false)
	}
}

// Info implements periodic.AccessLogger.
func (r *recorder) Info() string { return "duomesh samples" }

// finish moves all times to the start of the run and fills in the schedule.
func (r *recorder) finish(start time.Time) []Sample {
	offset := start.Sub(r.base)
	var all []Sample
	for t, thread := range r.threads {
		for _, s := range thread {
			s.Start -= offset
			s.Intended = s.Start
			if r.spec.PerSecond > 0 {
				s.Intended = r.spec.intended(t, s.Iteration)
			}
			all = append(all, s)
		}
	}
	return all
}

// samplesHeader is the first line of a sample file.
const samplesHeader = "thread,iteration,intended_ns,start_ns,latency_ns,code"

// WriteSamples writes samples as gzip-compressed CSV, one line per request
// under a header line.
func WriteSamples(w io.Writer, all []Sample) error {
	zip, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	out := bufio.NewWriterSize(zip, 1<<16)
	line := append([]byte(samplesHeader), '\n')
	for _, s := range all {
		if _, err := out.Write(line); err != nil {
			return fmt.Errorf("write samples: %w", err)
		}
		line = line[:0]
		for i, field := range s.fields() {
			if i > 0 {
				line = append(line, ',')
			}
			line = strconv.AppendInt(line, field, 10)
		}
		line = append(line, '\n')
	}
	if _, err := out.Write(line); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	if err := errors.Join(out.Flush(), zip.Close()); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	return nil
}

func (s Sample) fields() [6]int64 {
	return [6]int64{
		int64(s.Thread), int64(s.Iteration), int64(s.Intended), int64(s.Start), int64(s.Latency), int64(s.Code),
	}
}

// ReadSamples reads what WriteSamples wrote.
func ReadSamples(r io.Reader) ([]Sample, error) {
	zip, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("read samples: %w", err)
	}
	defer zip.Close()
	lines := bufio.NewScanner(zip)
	if !lines.Scan() || lines.Text() != samplesHeader {
		return nil, fmt.Errorf("read samples: the first line is %q, not %q", lines.Text(), samplesHeader)
	}
	var all []Sample
	for lines.Scan() {
		s, err := parseSample(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("read samples: line %d: %w", len(all)+2, err)
		}
		all = append(all, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read samples: %w", err)
	}
	return all, nil
}

func parseSample(line string) (Sample, error) {
	var f [6]int64
	rest := line
	for i := range f {
		field, after, more := strings.Cut(rest, ",")
		if more != (i < len(f)-1) {
			return Sample{}, fmt.Errorf("%q does not have %d fields", line, len(f))
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return Sample{}, err
		}
		f[i], rest = n, after
	}
	return Sample{
		Thread: int(f[0]), Iteration: int(f[1]), Intended: time.Duration(f[2]),
		Start: time.Duration(f[3]), Latency: time.Duration(f[4]), Code: int(f[5]),
	}, nil
}
