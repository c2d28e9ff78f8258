package testsum

import "io"

// Read counts the tests in the output of `go tool test2json -p PACKAGE`, or of
// `go test -json`. Failures are shown on progress.
func Read(r io.Reader, progress io.Writer) ([]Case, error) {
	s := newStream(progress, nil)
	err := s.read(r)
	s.finish()
	return s.cases, err
}
