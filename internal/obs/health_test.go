package obs

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func ask(t *testing.T, h *Health) (int, Report) {
	t.Helper()
	w := httptest.NewRecorder()
	h.serveReady(w, httptest.NewRequest("GET", "/readyz", nil))
	var r Report
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	return w.Code, r
}

func TestReadyListsEveryCheck(t *testing.T) {
	h := NewHealth()
	if code, r := ask(t, h); code != 200 || !r.Ready {
		t.Fatalf("without checks: %d %+v", code, r)
	}
	down := errors.New("connection refused")
	h.Ready("redis", func(context.Context) error { return nil })
	h.Ready("kafka", func(context.Context) error { return down })
	h.Ready("loops", func(context.Context) error { panic("bad check") })
	code, r := ask(t, h)
	want := Report{Checks: []CheckResult{
		{Name: "redis", OK: true}, {Name: "kafka", Error: "connection refused"}, {Name: "loops", Error: "check panicked: bad check"},
	}}
	if code != 503 || !reflect.DeepEqual(r, want) {
		t.Fatalf("got %d %+v", code, r)
	}
}

// Symptom looked for: a process that was told to stop while it started turns
// ready again. Cause would be one flag for both reasons.
func TestReasonsStandByThemselves(t *testing.T) {
	h := NewHealth()
	started := h.SetUnready("starting")
	stopped := h.SetUnready("draining")
	if code, r := ask(t, h); code != 503 || !reflect.DeepEqual(r.Reasons, []string{"starting", "draining"}) {
		t.Fatalf("got %d %+v", code, r)
	}
	started()
	started()
	if code, r := ask(t, h); code != 503 || !reflect.DeepEqual(r.Reasons, []string{"draining"}) {
		t.Fatalf("got %d %+v", code, r)
	}
	stopped()
	if code, r := ask(t, h); code != 200 || !r.Ready {
		t.Fatalf("got %d %+v", code, r)
	}
}

func TestStuckCheckIsReportedAndRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth()
		var runs atomic.Int32
		release := make(chan struct{})
		h.Ready("stuck", func(context.Context) error { runs.Add(1); <-release; return nil })
		h.Ready("polite", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		h.Ready("fine", func(context.Context) error { return nil })
		for i := range 3 {
			start := time.Now()
			r := h.Check(t.Context())
			if took := time.Since(start); took != readyWithin {
				t.Fatalf("answered after %v", took)
			}
			if r.Ready || r.Checks[0].OK || r.Checks[1].OK || !r.Checks[2].OK {
				t.Fatalf("got %+v", r)
			}
			want := "no answer for " + (time.Duration(i+1) * readyWithin).String()
			if r.Checks[0].Error != want {
				t.Fatalf("got %q, want %q", r.Checks[0].Error, want)
			}
			synctest.Wait() // the polite one returns
		}
		if runs.Load() != 1 {
			t.Fatalf("started %d times", runs.Load())
		}
		close(release)
		synctest.Wait()
		if r := h.Check(t.Context()); !r.Checks[0].OK || runs.Load() != 2 {
			t.Fatalf("after release: %+v, %d runs", r, runs.Load())
		}
	})
}

// Two probers at once, of which the first hangs up, are both no reason to call
// a part broken.
func TestProbersShareARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHealth()
		var runs atomic.Int32
		h.Ready("slow", func(ctx context.Context) error {
			runs.Add(1)
			select {
			case <-time.After(100 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		ctx, hangUp := context.WithCancel(t.Context())
		go h.Check(ctx)
		synctest.Wait()
		hangUp()
		if r := h.Check(t.Context()); !r.Ready || runs.Load() != 1 {
			t.Fatalf("got %+v after %d runs", r, runs.Load())
		}
	})
}

// A drain that begins while the checks run is part of the answer.
func TestDrainDuringTheChecksIsSeen(t *testing.T) {
	h := NewHealth()
	h.Ready("drains", func(context.Context) error { h.SetUnready("draining"); return nil })
	if r := h.Check(t.Context()); r.Ready {
		t.Fatalf("got %+v", r)
	}
}

func TestHealthzAnswersWhateverTheChecksSay(t *testing.T) {
	h := NewHealth()
	h.SetUnready("draining")
	w := httptest.NewRecorder()
	h.serveLive(w, httptest.NewRequest("GET", "/healthz", nil))
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != "ok" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
}
