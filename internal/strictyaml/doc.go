// Package strictyaml reads the YAML forms of this module: one document of plain
// values, without anchors, tags and guesses. What is not right becomes a Problem
// with its line and column; nothing is rounded, converted or left out.
package strictyaml
