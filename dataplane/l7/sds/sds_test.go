package sds

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/duomesh/duomesh/internal/istiod"
)

// A certificate that cannot be renewed does until it expires, and then it is said why
// there is no other.
func TestExpiredCertificateIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = time.Hour
		var away atomic.Bool
		k := NewKeeper(func(context.Context) (istiod.Certificate, error) {
			if away.Load() {
				return istiod.Certificate{}, errors.New("the CA is away")
			}
			return istiod.Certificate{NotBefore: time.Now(), NotAfter: time.Now().Add(life)}, nil
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if k.Waiting() == "" {
			t.Error("it has one before Run")
		}
		go k.Run(ctx)
		synctest.Wait()
		away.Store(true)
		<-time.After(life - time.Second)
		if why := k.Waiting(); why != "" {
			t.Errorf("before it expires: %s", why)
		}
		<-time.After(2 * time.Second)
		if why := k.Waiting(); !strings.Contains(why, "expired") || !strings.Contains(why, "the CA is away") {
			t.Errorf("after it has expired: %q", why)
		}
		away.Store(false)
		<-time.After(time.Minute)
		if why := k.Waiting(); why != "" {
			t.Errorf("after the CA is back: %s", why)
		}
	})
}
