package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/job/cometclient"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/stream"
)

func TestUnreadableRecordsGoToTheDeadLetterTopic(t *testing.T) {
	w := newWorld(t, "a")
	id := w.connect("a", "k", 0)
	j, p := w.job(testConfig()), newStubPartition(t, 0)
	p.append(text("k:k", 0), message.ToKey("k"))
	p.appendRecord(stream.Record{Err: errors.New("garbage")})
	p.append(text("k:k", 1), message.ToKey("k"))
	p.append(text("x", 0), message.ToKey("k"), message.ToRoom("live://1")) // two pushes under one offset
	p.append(text("x", 0), message.ToRoom("live://2"), message.ToRoom("live://1"))
	p.append(text("x", 0), message.ToRoom(""))
	p.append(text("x", 0)) // for nobody: nothing to do
	p.append(text("k:k", 2), message.ToKey("k"))
	claim := p.claim()
	claim.deadError = 3 // the topic is away at first
	done := make(chan error, 1)
	go func() { done <- j.Work(context.Background(), claim) }()
	committed(t, p)
	claim.revoke()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !slices.Equal(claim.dead, []int64{1, 3, 4, 5}) {
		t.Errorf("dead letters: %v", claim.dead)
	}
	if err := checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"k:k": 3}); err != nil {
		t.Error(err)
	}
}

// A partition waits while the dead-letter topic is away: it skips nothing.
func TestDeadLetterTopicAway(t *testing.T) {
	w := newWorld(t, "a")
	w.connect("a", "k", 0)
	j, p := w.job(testConfig()), newStubPartition(t, 0)
	p.appendRecord(stream.Record{Err: errors.New("garbage")})
	p.append(text("k:k", 0), message.ToKey("k"))
	claim := p.claim()
	claim.deadError = 1 << 30
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Work(ctx, claim) }()
	checkFor(t, "attempts", func() error {
		claim.mu.Lock()
		defer claim.mu.Unlock()
		if claim.deadError > 1<<30-5 {
			return errors.New("few attempts")
		}
		return nil
	})
	cancel()
	if err := <-done; !errors.Is(err, errDeadLetter) {
		t.Errorf("Work = %v", err)
	}
	if p.committed != 0 || w.comets["a"].pushed() != 0 {
		t.Error("the record behind the unreadable one was touched")
	}
}

// Symptom: while the dead-letter topic was away, every rebalance and the stop
// of a job with an unreadable record took finish_timeout. Cause: the claim
// refused the dead letter because it was revoked, and was asked again and again.
func TestRevokeWhileTheDeadLetterTopicIsAway(t *testing.T) {
	w := newWorld(t, "a")
	_, p, r := w.one(testConfig())
	r.mu.Lock()
	r.deadError = 1 << 30
	r.mu.Unlock()
	p.appendRecord(stream.Record{Err: errors.New("garbage")})
	checkFor(t, "an attempt", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.deadError == 1<<30 {
			return errors.New("not yet")
		}
		return nil
	})
	r.revoke() // the budget, the worker's context, goes on
	if err := r.ended(t); !errors.Is(err, stream.ErrRevoked) {
		t.Errorf("Work = %v", err)
	}
	if p.behind() == nil {
		t.Error("the unreadable record was completed")
	}
}

func TestLogicOutage(t *testing.T) {
	for _, how := range []string{"break", "error", "hang"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, "a")
			id := w.connect("a", "k", 0)
			cfg := testConfig()
			cfg.RouteTimeout = 100 * time.Millisecond
			j, p, _ := w.one(cfg)
			p.append(text("k:k", 0), message.ToKey("k"))
			committed(t, p)
			for _, l := range w.logics {
				l.set(how)
			}
			for i := range 10 {
				p.append(text("k:k", 1+i), message.ToKey("k"))
			}
			before := w.logics[0].called() + w.logics[1].called()
			checkFor(t, "attempts", func() error {
				if n := w.logics[0].called() + w.logics[1].called() - before; n < 5 {
					return fmt.Errorf("%d attempts", n)
				}
				// An answer from before may be told last, once.
				if j.Ready(t.Context()) == nil {
					return errors.New("ready without logic")
				}
				return nil
			})
			if p.behind() == nil {
				t.Error("committed without logic")
			}
			for _, l := range w.logics {
				l.set("")
			}
			committed(t, p)
			if err := checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"k:k": 11}); err != nil {
				t.Error(err)
			}
			j.wantOutcomes(map[job.Outcome]uint64{job.Delivered: 11})
			// A call that hung may fail after one that was answered.
			checkFor(t, "ready", func() error { return j.Ready(t.Context()) })
		})
	}
}

// One logic of two fails: the other is asked at once.
func TestOneLogicFails(t *testing.T) {
	for _, how := range []string{"break", "error", "stop"} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t, "a")
			id := w.connect("a", "k", 0)
			_, p, _ := w.one(testConfig())
			if how == "stop" {
				w.logics[0].server.Stop()
			} else {
				w.logics[0].set(how)
			}
			for i := range 50 {
				p.append(text("k:k", i), message.ToKey("k"))
				if i%10 == 0 {
					committed(t, p)
				}
			}
			committed(t, p)
			if err := checkSession(w.comets["a"].bodies(id), map[message.Timeline]int{"k:k": 50}); err != nil {
				t.Error(err)
			}
		})
	}
}

// A claim that ends while logic is away is given up when the budget is over.
func TestRevokeDuringLogicOutage(t *testing.T) {
	w := newWorld(t, "a")
	for _, l := range w.logics {
		l.set("hang")
	}
	_, p, r := w.one(testConfig())
	p.append(text("k:k", 0), message.ToKey("k"))
	checkFor(t, "taken", func() error { // to count calls is not enough: the comets are refreshed, too
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.next == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	r.revoke()
	r.cancel()
	if err := r.ended(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Work = %v", err)
	}
	if p.behind() == nil {
		t.Error("completed without logic")
	}
}

// The intake does not wait for outcomes: while a comet is silent, records for
// others go on being routed and delivered.
func TestIntakeDoesNotWaitForOutcomes(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.connect("a", "ka", 0)
	kb := w.connect("b", "kb", 0)
	cfg := testConfig()
	cfg.MaxBatchRecords = 1
	_, p, _ := w.one(cfg)
	w.lanesOpen(4, w.comets["a"], w.comets["b"])
	release := w.comets["a"].hold()
	p.append(text("k:ka", 0), message.ToKey("ka"))
	for i := range 100 {
		p.append(text("k:kb", i), message.ToKey("kb"))
	}
	checkFor(t, "delivered to b", func() error {
		return checkSession(w.comets["b"].bodies(kb), map[message.Timeline]int{"k:kb": 100})
	})
	if p.committed != 0 {
		t.Error("committed beyond a record without an outcome")
	}
	release()
	committed(t, p)
}

func TestNewAndClose(t *testing.T) {
	w := newWorld(t)
	cfg := job.DefaultConfig()
	cfg.Lanes = 0
	if _, err := job.New(cfg, job.Deps{}); err == nil || !strings.Contains(err.Error(), "lanes = 0: 1 to 64") {
		t.Errorf("New = %v", err)
	}
	if _, err := job.New(job.DefaultConfig(), job.Deps{Name: "x", Edge: cometclient.New(), Logger: slog.Default()}); err == nil {
		t.Error("a job without router was made")
	}
	j, p := w.job(testConfig()), newStubPartition(t, 0)
	r := j.work(p)
	checkFor(t, "work", func() error {
		if w.logics[0].called()+w.logics[1].called() == 0 {
			return errors.New("no refresh yet")
		}
		return nil
	})
	for range 2 {
		if err := j.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if err := r.ended(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Work at close = %v", err)
	}
	if err := j.Work(context.Background(), p.claim()); !errors.Is(err, job.ErrClosed) {
		t.Errorf("Work after Close = %v", err)
	}
}

func TestProblems(t *testing.T) {
	cfg := job.DefaultConfig()
	if problems := cfg.Problems(); len(problems) > 0 {
		t.Errorf("the defaults have problems: %v", problems)
	}
	var zero job.Config
	var keys []string
	for _, problem := range zero.Problems() {
		key, allowed, ok := strings.Cut(problem, " = ")
		if !ok || !strings.Contains(allowed, ": ") || !strings.Contains(allowed, " to ") {
			t.Errorf("problem %q", problem)
		}
		keys = append(keys, key)
	}
	if len(keys) != 15 {
		t.Errorf("problems of %v, want all 15 settings", keys)
	}
}
