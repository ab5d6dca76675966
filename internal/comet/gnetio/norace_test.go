//go:build !race

package gnetio

const (
	crowdSize = 3000
	slowdown  = 1
)
