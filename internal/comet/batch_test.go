package comet

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const (
	testFull     = 4
	testPatience = 5 * time.Millisecond
)

// calls are the batches that workers were given.
type calls struct {
	q    *batchQueue[int]
	got  chan []int
	end  chan struct{} // one token ends one call
	stop context.CancelFunc
}

// serve starts workers whose calls take until they are ended, or the test is.
func serve(t *testing.T, workers int, patience time.Duration) *calls {
	ctx, stop := context.WithCancel(t.Context())
	c := &calls{newBatchQueue[int](10, testFull, patience), make(chan []int, 100), make(chan struct{}), stop}
	t.Cleanup(func() {
		stop()
		close(c.end)
	})
	for range workers {
		go c.q.serve(ctx, func(batch []int) {
			c.got <- slices.Clone(batch)
			<-c.end
		})
	}
	return c
}

func (c *calls) add(t *testing.T, items ...int) {
	t.Helper()
	for _, v := range items {
		if !c.q.add(v) {
			t.Fatalf("%d was not taken", v)
		}
	}
}

// want checks which calls have begun until now.
func (c *calls) want(t *testing.T, batches ...[]int) {
	t.Helper()
	synctest.Wait()
	for _, want := range batches {
		select {
		case got := <-c.got:
			if !slices.Equal(got, want) {
				t.Fatalf("a call with %v, want %v", got, want)
			}
		default:
			t.Fatalf("no call, want %v", want)
		}
	}
	if len(c.got) > 0 {
		t.Fatalf("a call with %v more", <-c.got)
	}
}

func TestBatchWaitsForCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, 3, testPatience)
		c.add(t, 1) // nobody is busy
		c.want(t, []int{1})
		c.add(t, 2, 3)
		c.want(t)
		c.add(t, 4, 5) // a batch is full
		c.want(t, []int{2, 3, 4, 5})
		c.add(t, 6)
		time.Sleep(testPatience - 1)
		c.add(t, 7)
		c.want(t)
		time.Sleep(time.Nanosecond)
		c.want(t, []int{6, 7}) // the older one has waited long enough

		c.add(t, 8, 9)
		time.Sleep(time.Minute)
		c.want(t) // all workers are busy
		c.end <- struct{}{}
		c.want(t, []int{8, 9})
		c.add(t, 10, 11, 12, 13, 14)
		c.end <- struct{}{}
		c.want(t, []int{10, 11, 12, 13})
		c.end <- struct{}{}
		c.want(t)
		time.Sleep(testPatience)
		c.want(t, []int{14})
	})
}

// What is left behind a batch has a worker of its own: a call that hangs must
// not hold it up.
func TestBatchLeavesTheRestToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, 2, time.Hour)
		synctest.Wait()
		c.q.mu.Lock() // all in one moment: a worker that wakes at the first finds eight
		c.q.items = append(c.q.items, 1, 2, 3, 4, 5, 6, 7, 8)
		c.q.signal()
		c.q.mu.Unlock()
		synctest.Wait()
		if len(c.got) != 2 {
			t.Fatalf("%d calls, want 2", len(c.got))
		}
		first, second := <-c.got, <-c.got
		if first[0] > second[0] { // the workers report in any order
			first, second = second, first
		}
		if !slices.Equal(first, []int{1, 2, 3, 4}) || !slices.Equal(second, []int{5, 6, 7, 8}) {
			t.Errorf("calls with %v and %v", first, second)
		}
	})
}

// Behind a batch that went, patience begins anew.
func TestBatchPatienceBeginsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, 2, testPatience)
		c.add(t, 1)
		c.want(t, []int{1})
		c.add(t, 2, 3, 4, 5)
		c.want(t, []int{2, 3, 4, 5})
		c.add(t, 6, 7, 8, 9, 10)
		time.Sleep(time.Minute)
		c.end <- struct{}{}
		c.want(t, []int{6, 7, 8, 9})
		c.end <- struct{}{}
		time.Sleep(testPatience - 1)
		c.want(t)
		time.Sleep(time.Nanosecond)
		c.want(t, []int{10})
	})
}

// Who waits goes as soon as nobody is busy any more.
func TestBatchGoesWhenAllAreBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, 2, testPatience)
		c.add(t, 1)
		c.want(t, []int{1})
		c.add(t, 2)
		c.want(t)
		c.end <- struct{}{}
		c.want(t, []int{2})
	})
}

func TestBatchWithoutPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, 2, 0)
		c.add(t, 1)
		c.want(t, []int{1})
		c.add(t, 2)
		c.want(t, []int{2})
		c.add(t, 3, 4)
		c.want(t)
		c.end <- struct{}{}
		c.want(t, []int{3, 4})
	})
}

// A comet that ends hands on what waits at once, and takes no more.
func TestBatchEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, 2, testPatience)
		c.add(t, 1)
		c.want(t, []int{1})
		c.add(t, 2, 3)
		c.want(t)
		c.q.close()
		if c.q.add(4) {
			t.Error("a closed queue took an item")
		}
		began := time.Now()
		c.stop()
		c.want(t, []int{2, 3})
		if waited := time.Since(began); waited > 0 {
			t.Errorf("they waited %v", waited)
		}
	})
}

func TestBatchQueueIsBounded(t *testing.T) {
	q := newBatchQueue[int](3, testFull, testPatience)
	for i := range 5 {
		if got, want := q.add(i), i < 3; got != want {
			t.Errorf("item %d taken: %v", i, got)
		}
	}
}
