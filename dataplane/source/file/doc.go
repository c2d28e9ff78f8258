// Package file reads intent from a YAML file and writes it there. The form is
// described in docs/intent-yaml.md.
//
// Reading is strict: a key, type, address, number, name or reference that is
// not right is a Problem with its line and column, all problems of a file are
// listed together, and nothing of a file that has one is used.
package file
