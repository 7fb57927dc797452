// Package stack makes room on a goroutine's stack in one step. A goroutine starts with 2 KB and doubles them as it needs, each time
// copying what the stack holds by then, frame by frame: with the chain of filters of an API request above it, a fair part of the request.
package stack

// Room4K has a frame of 4 KB, which the runtime makes room for before it runs: call it first in a goroutine.
//
//go:noinline
func Room4K(i int) byte {
	var room [4 << 10]byte
	room[i%len(room)] = 1
	return room[(i+1)%len(room)]
}

// Room16K is Room4K of 16 KB.
//
//go:noinline
func Room16K(i int) byte {
	var room [16 << 10]byte
	room[i%len(room)] = 1
	return room[(i+1)%len(room)]
}
