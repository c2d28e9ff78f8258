package result

import (
	"github.com/duomesh/duomesh/bench/stats"
)

// Cost is what 1000 requests a second take. It is no forecast of a rate: cores are the
// processor time of a request times 1000, and memory does not grow in step.
type Cost struct {
	// Cores of both pods, of what is between them, and of the rest of the machine.
	ClientCores float64 `json:"client_cores"`
	ServerCores float64 `json:"server_cores"`
	ProxyCores  float64 `json:"proxy_cores"`
	OtherCores  float64 `json:"other_cores"`
	// ProxyMemory is the resident memory of everything between the pods at the end of
	// a trial, bytes; ProxyMemoryPer1000 is that per 1000 requests a second which it
	// carried.
	ProxyMemory        float64 `json:"proxy_resident_bytes"`
	ProxyMemoryPer1000 float64 `json:"proxy_resident_bytes_per_1000"`
}

// Cores are all of them.
func (c Cost) Cores() float64 { return c.ClientCores + c.ServerCores + c.ProxyCores + c.OtherCores }

// costOf follows from a row and its trials.
func costOf(r Row, trials []digested) Cost {
	const cores = 1e-3 // of a microsecond for each of 1000 requests in a second
	c := Cost{ClientCores: r.ClientCPU * cores, ServerCores: r.ServerCPU * cores, OtherCores: r.OtherCPU * cores}
	for _, us := range r.ProxyCPU {
		c.ProxyCores += us * cores
	}
	var memory, each []float64
	for _, d := range trials {
		var sum float64
		for _, b := range d.ProxyMemory {
			sum += float64(b)
		}
		memory, each = append(memory, sum), append(each, sum/max(d.perSecond(), 1)*1e3)
	}
	c.ProxyMemory, c.ProxyMemoryPer1000 = stats.Median(memory), stats.Median(each)
	return c
}
