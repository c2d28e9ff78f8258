package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// element is one entry of a list's "plugins", as the bytes data[start:end].
type element struct {
	start, end int
	kind       string
}

// plugins finds the entries of a configuration list. The bytes between them are
// their author's: an edit leaves them alone.
func plugins(data []byte) ([]element, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := expect(d, '{'); err != nil {
		return nil, err
	}
	var found []element
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		if key != "plugins" {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return nil, err
			}
			continue
		}
		if found, err = entries(d); err != nil {
			return nil, fmt.Errorf("plugins: %w", err)
		}
	}
	if err := expect(d, '}'); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the end")
	}
	if len(found) == 0 {
		return nil, errors.New("it names no plugins")
	}
	return found, nil
}

func entries(d *json.Decoder) ([]element, error) {
	if err := expect(d, '['); err != nil {
		return nil, err
	}
	var found []element
	for d.More() {
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, err
		}
		var named struct{ Type string }
		if err := json.Unmarshal(raw, &named); err != nil {
			return nil, err
		}
		end := int(d.InputOffset())
		found = append(found, element{end - len(raw), end, named.Type})
	}
	return found, expect(d, ']')
}

func expect(d *json.Decoder, want json.Delim) error {
	switch got, err := d.Token(); {
	case err != nil:
		return err
	case got != want:
		return fmt.Errorf("want %v, got %v", want, got)
	}
	return nil
}

// with returns data with our entry as the last, or as it is where somebody has put
// another behind it. An entry of ours that says something else is replaced.
func with(data, entry []byte, kind string) ([]byte, error) {
	data, err := once(data, kind)
	if err != nil {
		return nil, err
	}
	all, err := plugins(data)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if e.kind == kind {
			return splice(data, e.start, e.end, entry), nil
		}
	}
	last := all[len(all)-1]
	gap := data[last.start-blanks(data[:last.start]) : last.start]
	return splice(data, last.end, last.end, []byte(","), gap, entry), nil
}

// once drops all entries of ours but the first.
func once(data []byte, kind string) ([]byte, error) { return keep(data, kind, 1) }

// without returns data without our entries; a list of nothing else stays.
func without(data []byte, kind string) ([]byte, error) { return keep(data, kind, 0) }

// keep cuts out entries of ours, the last first, until no more than most are left.
func keep(data []byte, kind string, most int) ([]byte, error) {
	for {
		all, err := plugins(data)
		if err != nil {
			return nil, err
		}
		ours, last := 0, 0
		for i, e := range all {
			if e.kind == kind {
				ours, last = ours+1, i
			}
		}
		if ours <= most || len(all) == 1 {
			return data, nil
		}
		data = cut(data, all, last)
	}
}

// cut takes out one entry with the comma that goes with it: for the last one
// exactly what with has put in.
func cut(data []byte, all []element, i int) []byte {
	if i == 0 {
		return splice(data, all[0].start, all[1].start)
	}
	return splice(data, all[i-1].end, all[i].end)
}

func splice(data []byte, from, to int, parts ...[]byte) []byte {
	out := bytes.Clone(data[:from])
	for _, p := range parts {
		out = append(out, p...)
	}
	return append(out, data[to:]...)
}

// blanks is the length of the white space at the end of b.
func blanks(b []byte) int { return len(b) - len(bytes.TrimRight(b, " \t\r\n")) }
