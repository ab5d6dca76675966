package mailbox

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func must[T any](t testing.TB, maxItems, maxBytes int, wake func()) *Mailbox[T] {
	t.Helper()
	m, err := New[T](maxItems, maxBytes, wake)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestBoundsMustBePositive(t *testing.T) {
	for _, b := range [][2]int{{0, 1}, {1, 0}, {-1, 5}} {
		if _, err := New[int](b[0], b[1], func() {}); err == nil {
			t.Errorf("New(%d, %d) gave no error", b[0], b[1])
		}
	}
}

func TestOrderAndOneWakeUp(t *testing.T) {
	wakes := 0
	m := must[int](t, 100, 100, func() { wakes++ })
	for i := range 10 {
		if err := m.Put(t.Context(), i, 1); err != nil {
			t.Fatal(err)
		}
	}
	if wakes != 1 {
		t.Fatalf("%d wake-ups for 10 items", wakes)
	}
	got, more := m.Drain(nil, 4)
	if len(got) != 4 || !more {
		t.Fatalf("drained %v, more %v", got, more)
	}
	if err := m.Force(10); err != nil {
		t.Fatal(err)
	}
	if wakes != 1 {
		t.Errorf("woken again although the consumer knows of more")
	}
	got, more = m.Drain(got, 100)
	if more || len(got) != 11 {
		t.Fatalf("drained %v, more %v", got, more)
	}
	for i, v := range got {
		if v != i {
			t.Fatalf("order %v", got)
		}
	}
	if err := m.Force(1); err != nil || wakes != 2 {
		t.Errorf("err %v, %d wake-ups after it was empty", err, wakes)
	}
	if items, bytes := m.Len(); items != 1 || bytes != 0 {
		t.Errorf("%d items of %d bytes left", items, bytes)
	}
}

func TestPutWaitsForSpaceAndEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := must[string](t, 10, 10, func() {})
		if err := m.Put(t.Context(), "larger than the bound", 21); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 2)
		go func() { done <- m.Put(ctx, "cancelled", 1) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatalf("err %v", err)
		}
		go func() { done <- m.Put(t.Context(), "second", 1) }()
		synctest.Wait()
		if got, _ := m.Drain(nil, 10); len(got) != 1 {
			t.Fatalf("drained %q before there was space", got)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got, _ := m.Drain(nil, 10); len(got) != 1 || got[0] != "second" {
			t.Errorf("drained %q", got)
		}
	})
}

func TestCloseEndsWaitingPuts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := must[int](t, 1, 1, func() {})
		if err := m.Put(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- m.Put(t.Context(), 2, 1) }()
		synctest.Wait()
		m.Close()
		m.Close()
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Errorf("waiting Put: %v", err)
		}
		if err := m.Force(3); !errors.Is(err, ErrClosed) {
			t.Errorf("Force: %v", err)
		}
		if got, _ := m.Drain(nil, 9); len(got) != 1 {
			t.Errorf("drained %v", got)
		}
	})
}

// Eight producers, one consumer that runs only when woken: nothing is lost,
// each producer's items keep their order, and no wake-up is missing.
func TestProducersKeepTheirOrder(t *testing.T) {
	const producers, each = 8, 5_000
	wake := make(chan struct{}, 1)
	var woken atomic.Int64
	m := must[[2]int](t, 64, 1000, func() {
		woken.Add(1)
		wake <- struct{}{}
	})
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				if err := m.Put(t.Context(), [2]int{p, i}, 10); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var next [producers]int
	for total := 0; total < producers*each; {
		<-wake
		for more := true; more; {
			var got [][2]int
			got, more = m.Drain(nil, 7)
			for _, v := range got {
				if next[v[0]] != v[1] {
					t.Fatalf("producer %d: got %d, want %d", v[0], v[1], next[v[0]])
				}
				next[v[0]]++
				total++
			}
		}
	}
	wg.Wait()
}

func BenchmarkPutDrain(b *testing.B) {
	m := must[int](b, 1024, 1<<20, func() {})
	buf := make([]int, 0, 64)
	ctx := context.Background()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_ = m.Put(ctx, i, 28)
		if i%64 == 63 {
			buf, _ = m.Drain(buf[:0], 64)
		}
	}
}
