// Package trace names the functions of the kernel that connections pass, counts
// calls of others, and says why packets were thrown away. It is a measuring tool
// beside the judge: no verdict rests on it, and a kernel without what it needs
// still opens the judge.
package trace
