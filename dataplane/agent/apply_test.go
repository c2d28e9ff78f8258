package agent

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// TestOnlyTheNewestWaits hands over ten updates while the first is being applied.
func TestOnlyTheNewestWaits(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, release := make(chan string), make(chan struct{})
	var refused []string
	f := follower{
		apply: func(_ context.Context, u numbered) bool {
			begun <- u.Version
			<-release
			return false
		},
		pause:  new(backoff.ZeroBackOff),
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

// TestLostIsNotRefused: a source that cannot be asked has refused nothing, until it
// answers again; an answer that was on its way before does not hide that it is lost.
func TestLostIsNotRefused(t *testing.T) {
	s := newState(Config{}, testStart)
	lost := func(want string, losses uint64) {
		t.Helper()
		status, _ := s.get()
		if status.Source.Lost != want || status.Source.Losses != losses || status.Source.Error != "" || status.Source.Errors != 0 {
			t.Errorf("status is %+v", status.Source)
		}
	}
	s.lose(numbered{n: 2}, "away")
	s.succeed(numbered{Update: Update{Version: "one"}, n: 1})
	lost("away", 1)
	if status, _ := s.get(); status.Source.Seen != "one" {
		t.Errorf("seen is %q", status.Source.Seen)
	}
	s.lose(numbered{n: 3}, "away still")
	lost("away still", 2)
	s.succeed(numbered{Update: Update{Version: "two"}, n: 4})
	lost("", 2)
}

// TestRefusedInTheMiddleIsTriedAgain: later and later, without any news of the source,
// until it is done or another state has taken its place.
func TestRefusedInTheMiddleIsTriedAgain(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, again := make(chan numbered), make(chan bool)
	waits, due := make(chan time.Duration), make(chan time.Time)
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.RandomizationFactor, pause.Multiplier = time.Second, 0, 2
	f := follower{
		apply: func(_ context.Context, u numbered) bool {
			begun <- u
			return <-again
		},
		refuse: func(numbered) {},
		busy:   func(bool) {},
		pause:  pause,
		after: func(d time.Duration) <-chan time.Time {
			waits <- d
			return due
		},
	}
	updates, ended := make(chan Update), make(chan struct{})
	go func() {
		defer close(ended)
		f.run(ctx, updates)
	}()
	updates <- Update{Version: "one"}
	for i := range 3 {
		if u := <-begun; u.Version != "one" || u.tries != i {
			t.Errorf("try %d is of %q, the %dth", i, u.Version, u.tries)
		}
		again <- true
		if want := time.Second << i; <-waits != want {
			t.Errorf("the wait before try %d is not %s", i+1, want)
		}
		if i < 2 {
			due <- time.Time{}
		}
	}
	// News without a state change nothing; a state takes its place at once, and begins
	// with the first wait.
	updates <- Update{Version: "bad", Err: errors.New("bad")}
	updates <- Update{Version: "two"}
	if u := <-begun; u.Version != "two" || u.tries != 0 {
		t.Errorf("next is %q, try %d", u.Version, u.tries)
	}
	again <- true
	if d := <-waits; d != time.Second {
		t.Errorf("the first wait of another update is %s", d)
	}
	due <- time.Time{}
	<-begun
	again <- false
	cancel()
	<-ended
}

// TestRetryThatSucceeds: the error is over, and the update was refused once.
func TestRetryThatSucceeds(t *testing.T) {
	s := newState(Config{}, testStart)
	u := numbered{Update: Update{Version: "one"}, n: 1}
	s.refuse(u, "full")
	u.tries++
	s.refuse(u, "still full")
	u.tries++
	s.succeed(u)
	status, _ := s.get()
	if src := status.Source; src.Seen != "one" || src.Error != "" || src.Errors != 1 || src.Retries != 2 || status.Applied.Version != "one" {
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
