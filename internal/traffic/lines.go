package traffic

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// lineWriter writes JSON lines in the order of put, and flushes whenever
// nothing more is waiting: a reader sees each line at once, and a busy writer
// still writes many lines in one system call.
type lineWriter struct {
	queue chan any
	done  chan error
}

func newLineWriter(out io.Writer) *lineWriter {
	w := &lineWriter{queue: make(chan any, 1024), done: make(chan error, 1)}
	go func() { w.done <- w.run(out) }()
	return w
}

// put may be called from many goroutines, but not after close.
func (w *lineWriter) put(v any) { w.queue <- v }

// close waits until everything is written and returns the first error.
func (w *lineWriter) close() error {
	close(w.queue)
	return <-w.done
}

func (w *lineWriter) run(out io.Writer) error {
	buf := bufio.NewWriterSize(out, 64<<10)
	enc := json.NewEncoder(buf)
	var first error
	for v := range w.queue {
		if first != nil {
			continue // keep the senders going
		}
		first = enc.Encode(v)
		if first == nil && len(w.queue) == 0 {
			first = buf.Flush()
		}
	}
	if first == nil {
		first = buf.Flush()
	}
	if first != nil {
		return fmt.Errorf("write lines: %w", first)
	}
	return nil
}
