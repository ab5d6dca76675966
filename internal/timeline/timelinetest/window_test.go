package timelinetest

import "testing"

func TestWindowInMemory(t *testing.T) {
	WindowSuite(t, func(*testing.T) Losable { return NewWindow() })
}
