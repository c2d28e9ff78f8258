package istiod

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// explain says in words what the codes of gRPC mean between this client and istiod.
func explain(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errSilent
	}
	switch status.Code(err) {
	case codes.Unauthenticated:
		return fmt.Errorf("istiod does not accept the token (wrong audience, expired, or of another cluster): %w", err)
	case codes.PermissionDenied:
		return fmt.Errorf("istiod does not let this identity ask as this node: %w", err)
	case codes.Unavailable:
		return fmt.Errorf("istiod cannot be reached, or is not the one that the roots have signed: %w", err)
	}
	return fmt.Errorf("stream from istiod: %w", err)
}
