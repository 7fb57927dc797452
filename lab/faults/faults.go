// Package faults takes servers away from a cluster of three while clients write, and checks what the clients saw. It holds tests only,
// built with the tag e2e.
package faults
