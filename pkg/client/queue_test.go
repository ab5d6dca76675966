package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
)

// Random puts and gets keep the order, also when the head moves far into the
// slice, and the count of bytes comes back to zero.
func TestQueueKeepsOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	q := newQueue(1<<30, 0)
	in, out := 0, 0
	for step := range 20_000 {
		likely := 60 // to put; the second half takes more than it puts
		if step > 10_000 {
			likely = 45
		}
		if in == out || rnd.IntN(100) < likely {
			if !q.put(Message{Body: []byte(strconv.Itoa(in))}) {
				t.Fatal("not taken")
			}
			in++
			continue
		}
		m, ok, err := q.get(t.Context())
		if err != nil || !ok || string(m.Body) != strconv.Itoa(out) {
			t.Fatalf("got %q, %t, %v, want %d", m.Body, ok, err, out)
		}
		out++
	}
	q.finish()
	for ; out < in; out++ {
		if m, ok, _ := q.get(t.Context()); !ok || string(m.Body) != strconv.Itoa(out) {
			t.Fatalf("got %q, %t, want %d", m.Body, ok, out)
		}
	}
	if _, ok, err := q.get(t.Context()); ok || err != nil || q.bytes != 0 {
		t.Errorf("after the last: %t, %v, %d bytes", ok, err, q.bytes)
	}
}

// Several receivers: each message goes to one of them, and all see the end.
func TestQueueWithManyReceivers(t *testing.T) {
	const total, receivers = 2000, 8
	q := newQueue(10*messageCost, 0)
	var mu sync.Mutex
	seen := map[string]int{}
	var all sync.WaitGroup
	for range receivers {
		all.Go(func() {
			for {
				m, ok, err := q.get(t.Context())
				if err != nil || !ok {
					if err != nil {
						t.Error(err)
					}
					return
				}
				mu.Lock()
				seen[string(m.Body)]++
				mu.Unlock()
			}
		})
	}
	for i := range total {
		q.put(Message{Body: []byte(strconv.Itoa(i))})
	}
	q.finish()
	all.Wait()
	if len(seen) != total {
		t.Errorf("%d of %d messages came", len(seen), total)
	}
	for body, n := range seen {
		if n != 1 {
			t.Errorf("%s came %d times", body, n)
		}
	}
}

func TestQueueGetEndsWithItsContext(t *testing.T) {
	q := newQueue(1, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q.put(Message{})
	if _, _, err := q.get(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, ok, err := q.get(t.Context()); !ok || err != nil {
		t.Errorf("the message is gone: %t, %v", ok, err)
	}
}
