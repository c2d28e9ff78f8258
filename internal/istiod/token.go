package istiod

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// token shows a ServiceAccount token, as istiod's authenticators want it.
type token struct{ file, cluster string }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	metadata := map[string]string{}
	if t.cluster != "" {
		metadata["clusterid"] = t.cluster
	}
	if t.file == "" {
		return metadata, nil
	}
	text, err := readToken(t.file)
	if err != nil {
		return nil, err
	}
	metadata["authorization"] = "Bearer " + text
	return metadata, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: a token is
// never sent in clear.
func (token) RequireTransportSecurity() bool { return true }

func readToken(file string) (string, error) {
	jwt, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("token for istiod: %w", err)
	}
	text := strings.TrimSpace(string(jwt))
	if text == "" {
		return "", fmt.Errorf("token for istiod: %s is empty", file)
	}
	return text, nil
}

// Audience is that of the tokens that istiod accepts by default.
const Audience = "istio-ca"

// claims are what a JWT says of itself (RFC 7519). They are believed only to explain
// why somebody else did not.
type claims struct {
	Audience any     `json:"aud"`
	Expires  float64 `json:"exp"`
	NotYet   float64 `json:"nbf"`
	Subject  string  `json:"sub"`
}

// doubt says what istiod may dislike in a token: it does not say itself.
func doubt(file string) string {
	if file == "" {
		return "none was shown"
	}
	text, err := readToken(file)
	if err != nil {
		return err.Error()
	}
	var c claims
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return file + " is not a JWT"
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(body, &c)
	}
	if err != nil {
		return fmt.Sprintf("%s is not a JWT: %v", file, err)
	}
	return c.doubt(time.Now())
}

func (c claims) doubt(now time.Time) string {
	var audiences []string
	switch a := c.Audience.(type) {
	case string:
		audiences = []string{a}
	case []any:
		for _, one := range a {
			audiences = append(audiences, fmt.Sprint(one))
		}
	}
	at := func(seconds float64) time.Time { return time.Unix(int64(seconds), 0) }
	switch {
	case c.Expires != 0 && !now.Before(at(c.Expires)):
		return "it expired at " + at(c.Expires).UTC().Format(time.RFC3339)
	case c.NotYet != 0 && now.Before(at(c.NotYet)):
		return "it is not valid before " + at(c.NotYet).UTC().Format(time.RFC3339) + "; is this machine's clock right?"
	case !slices.Contains(audiences, Audience):
		return fmt.Sprintf("its audience is %q, istiod wants %q", strings.Join(audiences, ", "), Audience)
	}
	return fmt.Sprintf("it is that of %s, in date and for %s: perhaps of another cluster, or its pod or account is gone", c.Subject, Audience)
}
