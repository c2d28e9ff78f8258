package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Program is a program in a released image.
type Program struct {
	// Image is a name with a tag or a digest; with both the digest counts.
	Image string
	// Path is where the image has it, absolute. Links are followed.
	Path string
	// Architecture is what it must be made for, in Go's words.
	Architecture string
	// Static refuses one that needs a dynamic linker.
	Static bool
}

// Registry says how registries are asked. Credentials are those of Docker's own
// configuration file; 127.0.0.1, localhost and private IPv4 addresses are asked
// without TLS.
type Registry struct {
	// Mirror, HOST[:PORT][/PREFIX], is asked in place of the registry that an image
	// names; the rest of the name stays.
	Mirror string
	// Wait bounds the wait for a registry's first answer, Stall that for more of an
	// answer; 0 means 10 s, and a minute.
	Wait, Stall time.Duration
	// Log is told what is being fetched; nil: nobody is.
	Log func(string)
}

// ErrUnreachable says that no registry answered.
var ErrUnreachable = errors.New("the registry cannot be reached")

// Take copies a program out of a released image into a file, without a container
// engine, and returns the name of that image with the digest that it had. What is
// read is verified: the manifest and each layer by its digest, the image's platform,
// and what machine the program is for. After an error the file holds nothing of use.
func (r Registry) Take(ctx context.Context, p Program, to *os.File) (string, error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("image %s: %w", p.Image, err) }
	ref, err := r.reference(p.Image)
	if err != nil {
		return fail(err)
	}
	ctx, heard, done := r.patience(ctx)
	defer done()
	taken, err := r.take(p, ref, to,
		remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: p.Architecture}),
		remote.WithTransport(listening{remote.DefaultTransport, heard}))
	if err != nil {
		if why := context.Cause(ctx); why != nil {
			err = why
		}
		return fail(err)
	}
	return taken, nil
}

// reference is where an image is asked for.
func (r Registry) reference(image string) (name.Reference, error) {
	ref, err := name.ParseReference(image, name.StrictValidation)
	if err != nil {
		if _, loose := name.ParseReference(image); loose == nil {
			err = errors.New("a tag or a digest is needed")
		}
		return nil, err
	}
	if r.Mirror == "" {
		return ref, nil
	}
	separator := ":"
	if _, digest := ref.(name.Digest); digest {
		separator = "@"
	}
	return name.ParseReference(strings.TrimSuffix(r.Mirror, "/") + "/" + ref.Context().RepositoryStr() + separator + ref.Identifier())
}

// patience ends a context when nothing has been heard for too long.
func (r Registry) patience(ctx context.Context) (_ context.Context, heard, done func()) {
	wait, stall := r.Wait, r.Stall
	if wait == 0 {
		wait = 10 * time.Second
	}
	if stall == 0 {
		stall = time.Minute
	}
	ctx, cancel := context.WithCancelCause(ctx)
	first := time.AfterFunc(wait, func() { cancel(fmt.Errorf("%w: no answer within %v", ErrUnreachable, wait)) })
	more := time.AfterFunc(wait+stall, func() { cancel(fmt.Errorf("nothing more came for %v", stall)) })
	return ctx, func() { first.Stop(); more.Reset(stall) }, func() { first.Stop(); more.Stop(); cancel(nil) }
}

// listening tells of everything that comes.
type listening struct {
	next  http.RoundTripper
	heard func()
}

func (l listening) RoundTrip(q *http.Request) (*http.Response, error) {
	answer, err := l.next.RoundTrip(q)
	if err == nil {
		l.heard()
		answer.Body = body{answer.Body, l.heard}
	}
	return answer, err
}

type body struct {
	io.ReadCloser
	heard func()
}

func (b body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.heard()
	return n, err
}

func (r Registry) take(p Program, ref name.Reference, to *os.File, o ...remote.Option) (string, error) {
	found, err := remote.Get(ref, o...)
	if err != nil {
		return "", unavailable(err)
	}
	image, err := found.Image()
	if err != nil {
		return "", fmt.Errorf("for linux/%s: %w", p.Architecture, err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("its configuration: %w", err)
	}
	if config.OS != "linux" || config.Architecture != p.Architecture {
		return "", fmt.Errorf("it is for %s/%s, not linux/%s", config.OS, config.Architecture, p.Architecture)
	}
	log := r.Log
	if log == nil {
		log = func(string) {}
	}
	if err := extract(image, p.Path, to, log); err != nil {
		return "", err
	}
	if err := executable(to, p.Architecture, p.Static); err != nil {
		return "", fmt.Errorf("%s: %w", p.Path, err)
	}
	taken := ref.Name()
	if _, digest := ref.(name.Digest); !digest {
		taken += "@" + found.Digest.String()
	}
	return taken, nil
}

// unavailable tells a registry that does not answer from one that says no.
func unavailable(err error) error {
	var said *transport.Error
	switch {
	case !errors.As(err, &said):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case said.StatusCode == http.StatusNotFound:
		return fmt.Errorf("the registry does not have it: %w", err)
	}
	return err
}
