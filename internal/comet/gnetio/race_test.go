//go:build race

package gnetio

// The race detector slows the loops; the bounds of times grow with it.
const (
	crowdSize = 300
	slowdown  = 5
)
