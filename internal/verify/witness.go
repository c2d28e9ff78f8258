package verify

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/report"
)

// witnesses is a set of those who tell of connections.
type witnesses uint8

const (
	kernel witnesses = 1 << iota
	servers
	clients
)

// missing are the witnesses who did not tell all that they saw.
func (e *evidence) missing() witnesses {
	var m witnesses
	if e.checkLost().Verdict != report.Pass {
		m |= kernel
	}
	if len(e.silent) > 0 {
		m |= servers
	}
	if e.cutShort != nil {
		m |= clients
	}
	return m
}

// limit takes the blame away from a check that rests on a witness who did not tell all.
func (missing witnesses) limit(c report.Check, needs witnesses) report.Check {
	if missing&needs != 0 {
		return orInconclusive(c)
	}
	return c
}

// checkTold names clients and servers that did not tell all that they saw.
func (e *evidence) checkTold() report.Check {
	var gaps []string
	for _, pod := range slices.Sorted(maps.Keys(e.silent)) {
		gaps = append(gaps, fmt.Sprintf("the server of %s: %v", pod, e.silent[pod]))
	}
	if e.cutShort != nil {
		gaps = append(gaps, fmt.Sprintf("the clients: %v", e.cutShort))
	}
	detail := "they did"
	if len(gaps) > 0 {
		detail = strings.Join(gaps, "; ")
	}
	return orInconclusive(report.Checkf("clients and servers told all that they saw", len(gaps) == 0, "%s", detail))
}

// untold reports whether servers that may have seen a connection are silent, and no
// other tells of it.
func (f fact) untold() bool {
	if len(f.servers) > 0 || len(f.seen.silent) == 0 {
		return false
	}
	by := []string{f.Server}
	for _, r := range f.Requests {
		by = append(by, r.Server)
	}
	return slices.ContainsFunc(by, func(pod string) bool {
		return pod == "" || f.seen.silent[pod] != nil
	})
}
