package istiod

import (
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is why a stream ended, in one word.
type Reason string

// The reasons.
const (
	// Closed: istiod ended the stream without a reason, as it does when it stops,
	// and now and then to spread its clients.
	Closed Reason = "closed"
	// Unreachable: there is nobody, or it broke off.
	Unreachable Reason = "unreachable"
	// Silent: istiod does not answer any more, not even a ping.
	Silent Reason = "silent"
	// Untrusted: it is not the istiod whose certificate the roots have signed, or
	// there are no roots.
	Untrusted Reason = "certificate"
	// NoToken: there is no token to show.
	NoToken Reason = "no-token"
	// Unauthenticated: istiod does not accept the token.
	Unauthenticated Reason = "unauthenticated"
	// PermissionDenied: the token is not that of the node.
	PermissionDenied Reason = "permission-denied"
	// TooLarge: an answer is larger than this client takes.
	TooLarge Reason = "too-large"
	// Other: the error's text says it.
	Other Reason = "other"
)

// Reasons are all of them.
var Reasons = []Reason{
	Closed, Unreachable, Silent, Untrusted, NoToken, Unauthenticated, PermissionDenied, TooLarge, Other,
}

// StreamError is why a stream ended.
type StreamError struct {
	Reason Reason
	words  string
	err    error
}

// Error implements error.
func (s *StreamError) Error() string { return s.words + ": " + s.err.Error() }

// Unwrap returns the cause.
func (s *StreamError) Unwrap() error { return s.err }

// ReasonOf returns the reason in an error that a Handler was told.
func ReasonOf(err error) Reason {
	var s *StreamError
	if errors.As(err, &s) {
		return s.Reason
	}
	return Other
}

// errSilent stands for the end of a stream that the server closed without a reason.
var errSilent = errors.New("istiod closed the stream")

// isAbsent reports whether nobody listens where istiod should be.
func isAbsent(err error) bool {
	var s *StreamError
	return errors.As(err, &s) && s.Reason == Unreachable && strings.Contains(s.err.Error(), "connection refused")
}

// unanswered is the end of a stream that istiod took, and on which it said nothing.
func unanswered(within time.Duration) error {
	return status.Error(codes.DeadlineExceeded, "no answer within "+within.String()+" to what it was asked")
}

// Explain says in words why a stream or a call of a client of istiod's has ended. token is
// the file of the token that was shown, if any.
func Explain(err error, token string) error { return explain(err, token) }

// obstacle is what gRPC's words about a connection that does not come about mean. token is
// "" where neither TLS nor a token is used.
func obstacle(text, token string) string {
	switch {
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		return ": that port speaks no TLS"
	case strings.Contains(text, "error reading server preface") && token == "":
		return ": that port does not answer without TLS"
	case strings.Contains(text, "produced zero addresses"):
		return ": no name server knows that name"
	}
	return ""
}

// explain says in words what the codes of gRPC mean between this client and istiod.
// token is the file of the token that was shown, if any.
func explain(err error, token string) error {
	if err == nil || errors.Is(err, io.EOF) {
		return &StreamError{Closed, "no reason given", errSilent}
	}
	text := status.Convert(err).Message()
	has := func(part string) bool { return strings.Contains(text, part) }
	switch status.Code(err) {
	case codes.Unauthenticated:
		if has("per-RPC creds failed") {
			return &StreamError{NoToken, "there is no token to show istiod", err}
		}
		return &StreamError{Unauthenticated, "istiod does not accept the token: " + doubt(token), err}
	case codes.PermissionDenied:
		return &StreamError{PermissionDenied, "istiod does not let this identity ask as this node", err}
	case codes.ResourceExhausted:
		return &StreamError{TooLarge, "an answer of istiod is larger than this client takes", err}
	case codes.DeadlineExceeded:
		return &StreamError{Silent, "istiod takes the stream and does not answer", err}
	case codes.Unavailable:
		switch {
		case has(noRoots):
			return &StreamError{Untrusted, "there are no roots to know istiod by", err}
		case has("authentication handshake failed") && !has("first record does not look like a TLS handshake"):
			return &StreamError{Untrusted, "istiod is not the one whose certificate the roots have signed", err}
		case has("keepalive") || has("timed out") || has("timeout"):
			return &StreamError{Silent, "istiod does not answer any more", err}
		}
		return &StreamError{Unreachable, "istiod cannot be reached" + obstacle(text, token), err}
	}
	return &StreamError{Other, "stream from istiod", err}
}
