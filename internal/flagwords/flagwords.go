// Package flagwords says in plain words what is wrong with the value of a flag: the
// flag library hands on what Go's own parsers say.
package flagwords

import (
	"errors"
	"fmt"
	"math"

	"github.com/spf13/pflag"
)

// wants are the values of the library's types of flags.
var wants = map[string]string{
	"bool":     "true or false",
	"int":      "a whole number",
	"int64":    "a whole number",
	"uint":     "a whole number, 0 or more",
	"uint8":    fmt.Sprintf("a whole number from 0 to %d", math.MaxUint8),
	"uint16":   fmt.Sprintf("a whole number from 0 to %d", math.MaxUint16),
	"uint32":   fmt.Sprintf("a whole number from 0 to %d", uint32(math.MaxUint32)),
	"uint64":   "a whole number, 0 or more",
	"float64":  "a number",
	"duration": "a duration, such as 500ms, 30s or 5m",
}

// Plain returns an error of flag parsing that names the flag, its value and what it may
// be. An error about anything else, and what a flag of another type says itself, it
// returns as it is.
func Plain(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	want, known := wants[invalid.GetFlag().Value.Type()]
	if !known {
		return fmt.Errorf("--%s %s: %w", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	}
	return fmt.Errorf("--%s %s: want %s", invalid.GetFlag().Name, invalid.GetValue(), want)
}
