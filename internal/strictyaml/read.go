package strictyaml

import (
	"context"
	"fmt"
	"io"
	"os"
)

// MaxBytes is the size of the largest file that is read: room for some
// hundred thousand endpoints.
const MaxBytes = 64 << 20

// Read returns the content of a file or of whatever else ends, a pipe for example.
// It returns when ctx is done, also where nobody writes into the pipe.
func Read(ctx context.Context, path string) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() { // outlives ctx where the system holds it in open or read
		data, err := read(path)
		done <- result{data, err}
	}()
	select {
	case r := <-done:
		return r.data, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: nothing more came to read: %w", path, context.Cause(ctx))
	}
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, MaxBytes)
	}
	return data, nil
}
