package app

import (
	"runtime"
	"testing"
)

func TestSpareProc(t *testing.T) {
	was := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(was) })
	for _, tc := range []struct {
		env           string
		procs, loops  int
		want, wantAll int
	}{
		{"", 2, 0, 2, 3},
		{"", 4, 2, 2, 4},
		{"", 2, 2, 2, 3},
		{"", 2, 8, 8, 9},
		{"2", 2, 0, 2, 2},
	} {
		t.Setenv("GOMAXPROCS", tc.env)
		runtime.GOMAXPROCS(tc.procs)
		if got, all := SpareProc(tc.loops), runtime.GOMAXPROCS(0); got != tc.want || all != tc.wantAll {
			t.Errorf("%+v: %d loops and %d Ps", tc, got, all)
		}
	}
}
