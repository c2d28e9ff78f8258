package scenario

import (
	"errors"
	"fmt"
)

// placed is an error about one value of a scenario.
type placed struct {
	path string // for example "loads[0].want"
	err  error
}

// Error implements error.
func (p placed) Error() string { return p.err.Error() }

// Unwrap returns the error without its place.
func (p placed) Unwrap() error { return p.err }

// at says which value err is about; nil stays nil.
func at(path string, err error) error {
	if err == nil {
		return nil
	}
	return placed{path, err}
}

// atf is a new error about one value.
func atf(path, format string, args ...any) error {
	return placed{path, fmt.Errorf(format, args...)}
}

// PathOf is the path of the value in YAML that an error of this package is about, from
// what was checked, for example "services[0].waypoint"; "" where it is about the whole.
func PathOf(err error) string {
	path := ""
	var p placed
	for errors.As(err, &p) {
		if path != "" {
			path += "."
		}
		path, err = path+p.path, p.err
	}
	return path
}
