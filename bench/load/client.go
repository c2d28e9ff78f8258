package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"time"

	"fortio.org/fortio/fhttp"
	"fortio.org/fortio/periodic"
)

// fortioResolution is the bucket of fortio's own histograms, in seconds; its
// default of 1 ms would put every latency here into one bucket.
const fortioResolution = 1e-6

func runClient(p *pipes) error {
	var s Spec
	if err := p.spec(&s); err != nil {
		return err
	}
	runtime.GOMAXPROCS(max(s.MaxProcs, 1))
	if s.Warmup > 0 {
		if _, err := request(s, s.Warmup, nil); err != nil {
			return fmt.Errorf("warm up on %s: %w", s.URL, err)
		}
	}
	samples := newRecorder(s)
	samples.full = periodic.NewAborter()
	runtime.GC()
	if err := p.say(message{Event: eventWarm}); err != nil {
		return err
	}
	if err := p.expect(askGo); err != nil {
		return err
	}
	before, err := readLinkCounts()
	if err != nil {
		return err
	}
	result, err := request(s, s.Duration, samples)
	if err == nil && samples.isFull() {
		err = fmt.Errorf("more than %d in one trial, which is the most: make it shorter", s.MaxCalls)
	}
	if err != nil {
		return fmt.Errorf("requests to %s: %w", s.URL, err)
	}
	if err := p.say(message{Event: eventDone}); err != nil {
		return err
	}
	after, err := readLinkCounts()
	if err != nil {
		return err
	}
	if err := p.expect(askCollect); err != nil {
		return err
	}
	return answer(p, s, samples, result, after.since(before))
}

// request runs fortio for a while. The greeting request that fortio makes on
// each thread is not in the samples.
func request(s Spec, d time.Duration, samples *recorder) (*fhttp.HTTPRunnerResults, error) {
	qps := s.PerSecond
	if qps == 0 {
		qps = -1
	}
	o := &fhttp.HTTPRunnerOptions{
		RunnerOptions: periodic.RunnerOptions{
			QPS:         qps,
			Duration:    d,
			NumThreads:  s.Threads,
			Percentiles: []float64{50, 90, 99},
			Resolution:  fortioResolution,
			Uniform:     true,
			Out:         io.Discard,
			Stop:        periodic.NewAborter(), // else fortio takes the signals
		},
		HTTPOptions: fhttp.HTTPOptions{
			URL:              s.URL,
			Payload:          payload(s.PayloadBytes),
			DisableKeepAlive: !s.KeepAlive,
		},
	}
	if samples != nil {
		o.AccessLogger, o.Stop = samples, samples.full
	}
	result, err := fhttp.RunHTTPTest(o)
	if err != nil {
		return nil, err
	}
	return result, nil
}

// payload begins with Canary, as far as there is room.
func payload(size int) []byte {
	return []byte(Canary + strings.Repeat("d", size))[:size]
}

func answer(p *pipes, s Spec, samples *recorder, result *fhttp.HTTPRunnerResults, links linkCounts) error {
	all := samples.finish(result.StartTime)
	var raw bytes.Buffer
	if err := WriteSamples(&raw, all); err != nil {
		return err
	}
	fortio, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("encode fortio's result: %w", err)
	}
	r := summarise(s, all)
	r.Connections = result.SocketCount
	r.Codes = result.RetCodes
	r.Elapsed = result.ActualDuration
	r.ConnectSeconds = result.ConnectionStats
	r.PacketsIn, r.PacketsOut, r.Retransmits, r.TimeWaits = links.in, links.out, links.retransmits, links.timeWaits
	r.SampleBytes, r.FortioBytes = raw.Len(), len(fortio)
	if err := p.say(message{Event: eventReport, Report: &r}); err != nil {
		return err
	}
	if err := p.write(raw.Bytes()); err != nil {
		return err
	}
	return p.write(fortio)
}

// summarise counts what only the samples tell.
func summarise(s Spec, all []Sample) Report {
	r := Report{Requests: len(all)}
	for _, x := range all {
		if x.Code != http.StatusOK {
			r.Errors++
		}
	}
	if s.PerSecond == 0 {
		return r
	}
	r.Slots = s.slots() * s.Threads
	r.Missed = max(r.Slots-len(all), 0)
	for _, x := range all {
		if x.Start-x.Intended >= s.interval() {
			r.Late++
		}
	}
	return r
}
