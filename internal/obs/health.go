package obs

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// readyWithin bounds one answer of /readyz. It is below the one second and more
// that probes usually wait.
const readyWithin = 800 * time.Millisecond

// Health knows whether the process may get work. A process without checks and
// reasons is ready.
type Health struct {
	mu      sync.Mutex
	checks  []*check
	next    int
	reasons []unready
}

type unready struct {
	id     int
	reason string
}

// Report is the answer of /readyz.
type Report struct {
	Ready   bool          `json:"ready"`
	Reasons []string      `json:"reasons,omitempty"` // given by SetUnready, oldest first
	Checks  []CheckResult `json:"checks"`            // in the order of registration
}

// CheckResult is the outcome of one check.
type CheckResult struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// NewHealth starts ready, without checks.
func NewHealth() *Health { return &Health{} }

// Ready adds a check: nil means that the part works now. It should return when
// its context ends; a check that does not is reported and not started again
// until it has returned.
func (h *Health) Ready(name string, fn func(ctx context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks = append(h.checks, &check{name: name, fn: fn})
}

// SetUnready makes the process unready ("starting", "draining") until clear is
// called. Each call stands by itself: a start that completes does not undo a
// drain that began meanwhile.
func (h *Health) SetUnready(reason string) (clear func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.next
	h.next++
	h.reasons = append(h.reasons, unready{id, reason})
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for i, r := range h.reasons {
			if r.id == id {
				h.reasons = append(h.reasons[:i], h.reasons[i+1:]...)
				return
			}
		}
	}
}

// Check runs all checks side by side and reports, within readyWithin or when
// ctx ends.
func (h *Health) Check(ctx context.Context) Report {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	h.mu.Lock()
	checks := h.checks[:len(h.checks):len(h.checks)]
	h.mu.Unlock()
	flights := make([]*flight, len(checks))
	for i, c := range checks {
		flights[i] = c.start(ctx)
	}
	report := Report{Ready: true, Checks: make([]CheckResult, len(checks))}
	for i, c := range checks {
		result := CheckResult{Name: c.name, OK: true}
		if err := flights[i].wait(ctx); err != nil {
			result.OK, result.Error = false, err.Error()
			report.Ready = false
		}
		report.Checks[i] = result
	}
	// Last, so that a drain that began while the checks ran is seen.
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.reasons {
		report.Ready = false
		report.Reasons = append(report.Reasons, r.reason)
	}
	return report
}

// check runs its function at most once at a time; those who ask meanwhile share
// the run. So probes cannot pile up behind a part that hangs.
type check struct {
	name string
	fn   func(context.Context) error

	mu      sync.Mutex
	current *flight
}

type flight struct {
	started time.Time
	done    chan struct{}
	err     error // valid after done
}

func (c *check) start(ctx context.Context) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		return c.current
	}
	f := &flight{started: time.Now(), done: make(chan struct{})}
	c.current = f
	// Not the caller's context: others may join, and it may hang up first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWithin)
	go func() {
		defer cancel()
		f.err = c.run(ctx)
		c.mu.Lock()
		c.current = nil
		c.mu.Unlock()
		close(f.done)
	}()
	return f
}

// run turns a panic into a failed check: a probe must not end the process.
func (c *check) run(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("check panicked: %v", r)
		}
	}()
	return c.fn(ctx)
}

func (f *flight) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
	}
	select {
	case <-f.done: // both came at once: the answer counts
		return f.err
	default:
		return fmt.Errorf("no answer for %s", time.Since(f.started).Round(time.Millisecond))
	}
}

// serveReady is /readyz: 200 or 503, and the report.
func (h *Health) serveReady(w http.ResponseWriter, r *http.Request) {
	report := h.Check(r.Context())
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if !report.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	body := json.NewEncoder(w)
	body.SetIndent("", "  ")
	_ = body.Encode(report) // the prober hung up
}

// serveLive is /healthz: the process answers, so it lives.
func (h *Health) serveLive(w http.ResponseWriter, _ *http.Request) {
	plain(w, http.StatusOK, "ok\n")
}
