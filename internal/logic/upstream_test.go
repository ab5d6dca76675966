package logic_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/message"
)

// backend fails as often as it is told to.
type backend struct {
	mu    sync.Mutex
	fails []error
	calls int
	got   []string
}

func (b *backend) Send(_ context.Context, messages []logic.UpstreamMessage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if len(b.fails) > 0 {
		err := b.fails[0]
		b.fails = b.fails[1:]
		return err
	}
	for _, m := range messages {
		b.got = append(b.got, fmt.Sprintf("%d to %s: %.9s", m.Message.Sender, m.To, m.Message.Body))
	}
	return nil
}

func (b *backend) take() (got []string, calls int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	got, calls = b.got, b.calls
	b.got, b.calls = nil, 0
	return got, calls
}

func upstreamOf(t *testing.T, change func(*logic.UpstreamConfig)) (*logic.Upstream, *backend) {
	t.Helper()
	cfg, b := logic.DefaultUpstreamConfig(), &backend{}
	if change != nil {
		change(&cfg)
	}
	u, err := logic.NewUpstream(cfg, b, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	return u, b
}

func said(n int) logic.UpstreamMessage {
	return logic.UpstreamMessage{To: "u:2", Message: message.Message{Sender: 1, Body: fmt.Append(nil, n)}}
}

// Messages go in order and in batches, again after a failure, not after a
// refusal; what fails too often is given up, and the next ones go on.
func TestUpstreamSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, b := upstreamOf(t, func(c *logic.UpstreamConfig) { c.Batch, c.Attempts = 10, 3 })
		var want []string
		for n := range 25 { // before the start, so that the batches are known
			u.Add(said(n))
			want = append(want, fmt.Sprintf("1 to u:2: %d", n))
		}
		if err := u.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, calls := b.take(); !slices.Equal(got, want) || calls != 3 {
			t.Errorf("%d calls: %q", calls, got)
		}
		broken := errors.New("broken")
		for _, c := range []struct {
			fails []error
			calls int
			sent  bool
		}{
			{[]error{broken, broken}, 3, true},
			{[]error{broken, broken, broken}, 3, false},
			{[]error{fmt.Errorf("no: %w", logic.ErrUpstreamRefused)}, 1, false},
			{nil, 1, true},
		} {
			b.mu.Lock()
			b.fails = c.fails
			b.mu.Unlock()
			u.Add(said(1))
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if got, calls := b.take(); calls != c.calls || (len(got) == 1) != c.sent {
				t.Errorf("%v: %q in %d calls", c.fails, got, calls)
			}
		}
		if err := u.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// What waits is bounded by bytes, also after much has passed; closing sends it;
// nothing is taken afterwards; a backend that hangs does not keep Close.
func TestUpstreamBoundAndClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, b := upstreamOf(t, func(c *logic.UpstreamConfig) { c.MaxBytes = 64 << 10 })
		big := said(1)
		big.Message.Body = make([]byte, 60<<10)
		if err := u.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			// Symptom: both were taken. Cause: the first one did not count any more
			// once it was being sent; the lock keeps it there.
			b.mu.Lock()
			u.Add(big)
			u.Add(big) // no room
			b.mu.Unlock()
			synctest.Wait()
			if got, _ := b.take(); len(got) != 1 {
				t.Errorf("%d of two", len(got))
			}
		}
		u.Add(said(1))
		for range 2 {
			if err := u.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		u.Add(said(2))
		if got, _ := b.take(); !slices.Equal(got, []string{"1 to u:2: 1"}) {
			t.Errorf("%q", got)
		}

		stuck, b := upstreamOf(t, nil)
		b.fails = slices.Repeat([]error{errors.New("broken")}, 100)
		if err := stuck.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stuck.Add(said(1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := stuck.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// strict refuses what many an HTTP server does by default.
type strict struct{ backend }

func (b *strict) Send(ctx context.Context, messages []logic.UpstreamMessage) error {
	bytes := 0
	for _, m := range messages {
		bytes += base64.StdEncoding.EncodedLen(len(m.Message.Body)) + 400 // the other fields
	}
	if len(messages) > 1 && bytes > 1<<20 {
		return logic.ErrUpstreamRefused
	}
	return b.backend.Send(ctx, messages)
}

// Symptom: a burst of messages of some 10 KB was refused by the backend as a
// whole (413), and lost. Cause: a batch was bounded by messages only, so that
// 100 of them, or all of max_bytes, were one request.
func TestBatchesAreBoundedByBytes(t *testing.T) {
	for _, bytes := range []int{0, 100, 20_000, 600_000, 2_000_000} {
		synctest.Test(t, func(t *testing.T) {
			cfg, b := logic.DefaultUpstreamConfig(), &strict{}
			cfg.Batch = 1000
			u, err := logic.NewUpstream(cfg, b, slog.New(slog.DiscardHandler), nil)
			if err != nil {
				t.Fatal(err)
			}
			n := min(3000, 50_000_000/(bytes+256))
			for range n {
				u.Add(logic.UpstreamMessage{To: "u:1", Message: message.Message{Body: make([]byte, bytes)}})
			}
			if err := u.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got, calls := b.take(); len(got) != n || calls > n || bytes < 1000 && calls > n/100 {
				t.Errorf("bodies of %d bytes: %d of %d sent in %d calls", bytes, len(got), n, calls)
			}
			if err := u.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
