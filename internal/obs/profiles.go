package obs

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxProfileSeconds bounds a CPU profile or trace.
const maxProfileSeconds = 300

// profiles serves /debug/pprof/ for `go tool pprof` and `go tool trace`. It
// replaces net/http/pprof, whose import alone puts the profiles on
// http.DefaultServeMux, which kratos serves on the public port for unknown
// routes. There is no cmdline page: -set flags may carry secrets.
type profiles struct {
	ctx context.Context // ends with the listener
}

func (p profiles) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch name := strings.TrimPrefix(r.URL.Path, "/debug/pprof/"); name {
	case "":
		p.index(w)
	case "profile":
		p.record(w, r, 30, func(w http.ResponseWriter) error { return pprof.StartCPUProfile(w) }, pprof.StopCPUProfile)
	case "trace":
		p.record(w, r, 1, func(w http.ResponseWriter) error { return trace.Start(w) }, trace.Stop)
	default:
		p.named(w, r, name)
	}
}

func (p profiles) index(w http.ResponseWriter) {
	var b strings.Builder
	b.WriteString("profile?seconds=30\ntrace?seconds=1\n")
	list := pprof.Profiles()
	slices.SortFunc(list, func(a, b *pprof.Profile) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, profile := range list {
		fmt.Fprintf(&b, "%s?debug=1 (%d)\n", profile.Name(), profile.Count())
	}
	plain(w, http.StatusOK, b.String())
}

// named writes a snapshot such as heap or goroutine; debug=1 and 2 are text.
func (p profiles) named(w http.ResponseWriter, r *http.Request, name string) {
	profile := pprof.Lookup(name)
	if profile == nil {
		plain(w, http.StatusNotFound, "no such profile; /debug/pprof/ lists them\n")
		return
	}
	if r.FormValue("seconds") != "" {
		plain(w, http.StatusBadRequest, "seconds is for profile and trace; compare two snapshots with -diff_base\n")
		return
	}
	debug, err := strconv.Atoi(cmp.Or(r.FormValue("debug"), "0"))
	if err != nil || debug < 0 {
		plain(w, http.StatusBadRequest, "debug: want 0, 1 or 2\n")
		return
	}
	if name == "heap" && r.FormValue("gc") == "1" {
		runtime.GC()
	}
	if debug == 0 {
		attachment(w, name)
	} else {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	}
	_ = profile.WriteTo(w, debug) // the client hung up
}

// record runs a profile for a while, until the client or the listener goes.
func (p profiles) record(w http.ResponseWriter, r *http.Request, seconds float64, start func(http.ResponseWriter) error, stop func()) {
	if text := r.FormValue("seconds"); text != "" {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || !(n > 0 && n <= maxProfileSeconds) {
			plain(w, http.StatusBadRequest, fmt.Sprintf("seconds: want a number above 0, up to %d\n", maxProfileSeconds))
			return
		}
		seconds = n
	}
	attachment(w, strings.TrimPrefix(r.URL.Path, "/debug/pprof/"))
	if err := start(w); err != nil {
		w.Header().Del("Content-Disposition")
		plain(w, http.StatusConflict, "cannot start, is another one running? "+err.Error()+"\n")
		return
	}
	defer stop()
	timer := time.NewTimer(time.Duration(seconds * float64(time.Second)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	case <-p.ctx.Done():
	}
}

func attachment(w http.ResponseWriter, name string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	w.Header().Set("X-Content-Type-Options", "nosniff")
}
