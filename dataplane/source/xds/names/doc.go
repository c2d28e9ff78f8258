// Package names resolves host names again and again, as long as their answers may be
// kept (TTL), and tells what has changed.
package names
