package agent

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestOnlyTheNewestWaits hands over ten updates while the first is being applied.
func TestOnlyTheNewestWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, release := make(chan string), make(chan struct{})
	var refused []string
	f := follower{
		apply: func(_ context.Context, u numbered) {
			begun <- u.Version
			<-release
		},
		refuse: func(u numbered) { refused = append(refused, u.Version) },
		busy:   func(bool) {},
	}
	updates, ended := make(chan Update), make(chan struct{})
	go func() {
		defer close(ended)
		f.run(ctx, updates)
	}()
	updates <- Update{Version: "0"}
	applied := []string{<-begun}
	for i := range 10 {
		updates <- Update{Version: strconv.Itoa(i + 1)}
	}
	// One without a state takes the place of none.
	updates <- Update{Version: "bad", Err: errors.New("bad")}
	release <- struct{}{}
	applied = append(applied, <-begun)
	close(updates)
	cancel()
	select {
	case <-ended:
		t.Error("it ended while an update was being applied")
	default:
	}
	release <- struct{}{}
	<-ended
	if want := []string{"0", "10"}; !slices.Equal(applied, want) {
		t.Errorf("applied %v, want %v", applied, want)
	}
	if want := []string{"bad"}; !slices.Equal(refused, want) {
		t.Errorf("refused %v, want %v", refused, want)
	}
}

// TestNewestIsSeen: an update that is refused while an older one is being
// applied is the last that was dealt with.
func TestNewestIsSeen(t *testing.T) {
	s := newState(Config{}, testStart)
	s.refuse(numbered{Update: Update{Version: "two"}, n: 2}, "bad")
	s.succeed(numbered{Update: Update{Version: "one"}, n: 1})
	status, _ := s.get()
	if status.Source.Seen != "two" || status.Source.Error != "bad" || status.Applied.Version != "one" {
		t.Errorf("status is %+v", status)
	}
	s.succeed(numbered{Update: Update{Version: "three"}, n: 3})
	status, _ = s.get()
	if status.Source.Seen != "three" || status.Source.Error != "" || status.Applied.Generation != 2 || status.Source.Errors != 1 {
		t.Errorf("status is %+v", status)
	}
}

func TestShortened(t *testing.T) {
	if got := shortened("one\ntwo"); got != "one\ntwo" {
		t.Errorf("%q", got)
	}
	if got := shortened(strings.Repeat("line\n", 99) + "last"); strings.Count(got, "\n") != 20 || !strings.HasSuffix(got, "\nand 80 more") {
		t.Errorf("%q", got)
	}
}
