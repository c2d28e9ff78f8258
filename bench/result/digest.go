package result

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/plan"
	"github.com/duomesh/duomesh/bench/stats"
)

// digested is a kept trial of a whole block with its latencies in microseconds.
type digested struct {
	Trial
	repeated int
	service  stats.Sorted
	response stats.Sorted // fixed mode only
}

func (d digested) latencies(m Measure) stats.Sorted {
	if m == Response {
		return d.response
	}
	return d.service
}

// digest reads the samples of all kept trials of whole blocks, each cell in the
// order of blocks. Failed requests are counted as errors and have no latency.
func digest(r Run) (map[plan.Cell][]digested, error) {
	whole := wholeBlocks(r)
	type slot struct {
		block int
		cell  plan.Cell
	}
	repeated := map[slot]int{}
	for _, t := range r.Trials {
		if !t.Kept {
			repeated[slot{t.Block, t.Cell}]++
		}
	}
	cells := map[plan.Cell][]digested{}
	for _, t := range r.Trials {
		if !t.Kept || !slices.Contains(whole, t.Block) {
			continue
		}
		samples, err := r.Samples(t)
		if err != nil {
			return nil, fmt.Errorf("samples of %s: %w", t, err)
		}
		d := digested{Trial: t, repeated: repeated[slot{t.Block, t.Cell}], service: Latencies(samples)}
		if len(d.service) == 0 {
			return nil, fmt.Errorf("%s: not one request was answered", t)
		}
		if t.Mode == plan.Fixed {
			d.response = micros(samples, load.Sample.Response)
		}
		cells[t.Cell] = append(cells[t.Cell], d)
	}
	for _, all := range cells {
		slices.SortFunc(all, func(a, b digested) int { return a.Block - b.Block })
	}
	return cells, nil
}

// Latencies returns the service times of the answered requests, microseconds.
func Latencies(samples []load.Sample) stats.Sorted {
	return micros(samples, func(s load.Sample) time.Duration { return s.Latency })
}

func micros(samples []load.Sample, of func(load.Sample) time.Duration) stats.Sorted {
	us := make(stats.Sorted, 0, len(samples))
	for _, s := range samples {
		if s.Code == http.StatusOK {
			us = append(us, float64(of(s).Nanoseconds())/1e3)
		}
	}
	slices.Sort(us)
	return us
}

// perRequest divides by the requests that the server answered, fortio's
// greeting included: the span has it too.
func (d digested) perRequest(total float64) float64 {
	return total / float64(max(d.Server.Requests, 1))
}

func (d digested) perSecond() float64 {
	return float64(d.Client.Requests-d.Client.Errors) / d.Client.Elapsed.Seconds()
}

// roleCPU is microseconds of both pods and of all proxies per request.
func (d digested) roleCPU() float64 {
	return d.perRequest(float64(d.CPU.Roles().Nanoseconds()) / 1e3)
}

// machineCPU is microseconds of the whole machine per request, less this program:
// work that the kernel books to no pod is in it.
func (d digested) machineCPU() float64 {
	return d.perRequest(float64((d.CPU.Machine - d.CPU.Harness).Nanoseconds()) / 1e3)
}

func (d digested) packets() float64 {
	return d.perRequest(float64(d.Client.PacketsIn + d.Client.PacketsOut))
}

func rowOf(v plan.Variant, trials []digested, m Measure) Row {
	row := Row{Variant: v, Trials: len(trials), Pooled: pooled(trials, m)}
	median := func(of func(digested) float64) float64 {
		var xs []float64
		for _, d := range trials {
			xs = append(xs, of(d))
		}
		return stats.Median(xs)
	}
	cpu := func(of func(CPU) int64) float64 {
		return median(func(d digested) float64 { return d.perRequest(float64(of(d.CPU)) / 1e3) })
	}
	quantile := func(q float64) float64 {
		return median(func(d digested) float64 { return d.latencies(m).Quantile(q) })
	}
	for _, d := range trials {
		row.Requests += d.Client.Requests
		row.Errors += d.Client.Errors
		row.Repeated += d.repeated
		row.Slots += d.Client.Slots
		row.Missed += d.Client.Missed
		row.Late += d.Client.Late
		row.Retransmits += d.Client.Retransmits
	}
	row.P50, row.P90, row.P99 = quantile(0.5), quantile(0.9), quantile(0.99)
	row.Mean = median(func(d digested) float64 { return d.latencies(m).Mean() })
	row.PerSecond = median(digested.perSecond)
	row.ClientCPU = cpu(func(c CPU) int64 { return c.Client.Nanoseconds() })
	row.ServerCPU = cpu(func(c CPU) int64 { return c.Server.Nanoseconds() })
	row.OtherCPU = cpu(func(c CPU) int64 { return c.Other().Nanoseconds() })
	for _, name := range proxies(trials) {
		if row.ProxyCPU == nil {
			row.ProxyCPU = map[string]float64{}
		}
		row.ProxyCPU[name] = cpu(func(c CPU) int64 { return c.Proxies[name].Nanoseconds() })
	}
	row.Cost = costOf(row, trials)
	row.Note = v.Traits().StandIn
	row.PacketsPerRequest = median(digested.packets)
	return row
}

// proxies names all that were between the pods in any of the trials.
func proxies(trials []digested) []string {
	names := map[string]bool{}
	for _, d := range trials {
		for name := range d.CPU.Proxies {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// pooledQuantiles are the points of a distribution; those of the far tail only
// where at least ten requests lie beyond them.
var pooledQuantiles = []float64{
	0, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99,
	0.995, 0.998, 0.999, 0.9995, 0.9999, 1,
}

const minBeyond = 10

// pooled joins the requests of all trials in one histogram: 1 ns to one minute.
func pooled(trials []digested, m Measure) []Point {
	h := hdrhistogram.New(1, 60e9, 3)
	for _, d := range trials {
		for _, us := range d.latencies(m) {
			// A value above a minute is fortio's own time-out; it counts as a minute.
			_ = h.RecordValue(min(max(int64(us*1e3), 1), 60e9))
		}
	}
	var points []Point
	for _, q := range pooledQuantiles {
		if q > 0.99 && q < 1 && (1-q)*float64(h.TotalCount()) < minBeyond {
			continue
		}
		p := Point{Quantile: q, Micros: float64(h.ValueAtQuantile(q*100)) / 1e3}
		p.Low, p.High = middleHalf(trials, m, q)
		points = append(points, p)
	}
	return points
}

// middleHalf is the first and the third quartile of the trials' own values at q;
// zero where the shortest trial has fewer than ten requests beyond q.
func middleHalf(trials []digested, m Measure, q float64) (low, high float64) {
	var xs stats.Sorted
	for _, d := range trials {
		all := d.latencies(m)
		if (1-q)*float64(len(all)) < minBeyond {
			return 0, 0
		}
		xs = append(xs, all.Quantile(q))
	}
	slices.Sort(xs)
	return xs.Quantile(0.25), xs.Quantile(0.75)
}
