//go:build !linux

package app

// SpareWakeups is for Linux only.
func SpareWakeups() {}
