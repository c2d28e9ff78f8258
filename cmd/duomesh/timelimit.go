package main

import (
	"errors"
	"time"

	"github.com/spf13/pflag"
)

// timeLimit is the value of a flag that bounds something: none, or less, would be over
// before it begins.
type timeLimit time.Duration

var errTimeLimit = errors.New("want a duration above 0, such as 30s or 5m")

// Set implements pflag.Value.
func (t *timeLimit) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errTimeLimit
	}
	*t = timeLimit(d)
	return nil
}

// String implements pflag.Value.
func (t *timeLimit) String() string { return time.Duration(*t).String() }

// Type implements pflag.Value.
func (t *timeLimit) Type() string { return "TIME" }

// timeoutFlag defines --timeout.
func timeoutFlag(set *pflag.FlagSet, to *time.Duration, otherwise time.Duration, usage string) {
	*to = otherwise
	set.Var((*timeLimit)(to), "timeout", usage)
}
