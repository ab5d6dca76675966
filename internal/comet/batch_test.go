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

// calls are the batches that workers were given, each as a list and when.
type calls struct {
	q     *batchQueue[int]
	began time.Time
	got   chan []int
	end   chan struct{} // one token ends one call
	stop  context.CancelFunc
}

// serve starts workers whose calls take until they are ended.
func serve(t *testing.T, workers int, patience time.Duration) *calls {
	ctx, stop := context.WithCancel(t.Context())
	c := &calls{newBatchQueue[int](10, testFull, patience), time.Now(), make(chan []int, 100), make(chan struct{}), stop}
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
		time.Sleep(1)
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
		close(c.end)
		c.stop()
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
		close(c.end)
		c.stop()
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
		close(c.end)
		c.stop()
	})
}

// A comet that ends hands on what waits at once, and takes no more.
func TestBatchEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := serve(t, 2, time.Hour)
		c.add(t, 1)
		c.want(t, []int{1})
		c.add(t, 2, 3)
		c.want(t)
		c.q.close()
		if c.q.add(4) {
			t.Error("a closed queue took an item")
		}
		c.stop()
		c.want(t, []int{2, 3})
		close(c.end)
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
