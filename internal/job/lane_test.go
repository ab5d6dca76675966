package job

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/obs"
	"github.com/perseid-im/perseid/internal/stream"
)

// memEdge is a comet in memory, for tests with a fake clock; real streams are
// tested in package job_test.
type memEdge struct {
	sent    chan []Push     // batches, as the comet reads them
	answers chan []Result   // what it answers
	opened  chan Hello      // streams
	rooms   chan RoomChange // of the one room stream
	other   atomic.Bool     // another life answers
}

func newMemEdge() *memEdge {
	return &memEdge{
		sent: make(chan []Push), answers: make(chan []Result),
		opened: make(chan Hello, 100), rooms: make(chan RoomChange),
	}
}

func (e *memEdge) Link(Node) Link { return e }
func (e *memEdge) Close() error   { return nil }

func (e *memEdge) Dispatch(ctx context.Context, h Hello) (DispatchStream, error) {
	e.opened <- h
	if e.other.Load() {
		return nil, fmt.Errorf("hello: %w", ErrOtherLife)
	}
	return &memStream{ctx, e}, nil
}

func (e *memEdge) Rooms(ctx context.Context, _ string) (RoomStream, error) {
	return memRooms{ctx, e}, nil
}

type memStream struct {
	ctx context.Context
	*memEdge
}

func (s *memStream) Send(pushes []Push) error {
	select {
	case s.sent <- append([]Push(nil), pushes...):
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *memStream) Recv() ([]Result, error) {
	select {
	case r := <-s.answers:
		return r, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

type memRooms struct {
	ctx context.Context
	*memEdge
}

func (s memRooms) Recv() (RoomChange, error) {
	select {
	case c := <-s.rooms:
		return c, nil
	case <-s.ctx.Done():
		return RoomChange{}, s.ctx.Err()
	}
}

func (s memRooms) Ack(uint64) error { return nil }

// memRouter lists one comet and answers nothing else.
type memRouter struct {
	mu    sync.Mutex
	nodes []Node
}

func (r *memRouter) Route(_ context.Context, items []RouteItem) (Routes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Routes{Nodes: r.nodes, Results: make([]Located, len(items))}, nil
}

func (r *memRouter) set(nodes ...Node) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = nodes
}

// noStorage is for records that are all transient.
type noStorage struct{ Storage }

// memClaim counts what is completed.
type memClaim struct {
	mu       sync.Mutex
	complete []int64
}

func (*memClaim) Log() string       { return "push/1" }
func (*memClaim) Partition() int32  { return 0 }
func (*memClaim) Generation() int32 { return 1 }
func (*memClaim) Next(ctx context.Context, _ int) ([]stream.Record, error) {
	<-ctx.Done()
	return nil, stream.ErrRevoked
}
func (*memClaim) DeadLetter(context.Context, stream.Record) error { return nil }
func (c *memClaim) Complete(offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complete = append(c.complete, offset)
}

func (c *memClaim) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.complete)
}

var nodeA = Node{Name: "a", Incarnation: 1, Addr: "a:1"}

// bench is a job with one lane to one comet in memory.
type bench struct {
	*Job
	edge   *memEdge
	router *memRouter
	claim  *memClaim
	work   *work
	lane   *lane
	comet  *comet
}

func newBench(t testing.TB, change func(*Config)) *bench {
	cfg := DefaultConfig()
	cfg.Lanes = 1
	if change != nil {
		change(&cfg)
	}
	b := &bench{edge: newMemEdge(), router: &memRouter{}, claim: &memClaim{}}
	b.router.set(nodeA)
	j, err := New(cfg, Deps{Name: "j", Router: b.router, Storage: noStorage{}, Edge: b.edge,
		Logger: slog.New(slog.DiscardHandler), Metrics: obs.NewMetrics()})
	if err != nil {
		t.Fatal(err)
	}
	b.Job, b.work = j, newWork(b.claim)
	if _, err := j.begin(t.Context(), b.work.log); err != nil {
		t.Fatal(err)
	}
	j.wg.Done()
	_, _, comets, err := j.ask(t.Context(), nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.comet = comets[0]
	b.lane = b.comet.lanes[0]
	<-b.edge.opened
	return b
}

func (b *bench) close(t testing.TB) {
	if err := b.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// deliveries makes n records with offsets from first, of size bytes each.
func (b *bench) deliveries(first, n int, size int64) []delivery {
	records := make([]record, n)
	out := make([]delivery, n)
	b.work.begin(n)
	for i := range records {
		records[i].work, records[i].offset = b.work, int64(first+i)
		records[i].pending.Store(1)
		out[i] = delivery{record: &records[i], sessions: []uint64{1}, size: size}
	}
	return out
}

func delivered(n int) []Result {
	r := make([]Result, n)
	for i := range r {
		r[i].Counts[Delivered] = 1
	}
	return r
}

func offsets(pushes []Push) []int64 {
	var out []int64
	for _, p := range pushes {
		out = append(out, p.Offset)
	}
	return out
}

// An idle lane adds no delay, a busy one batches what came meanwhile.
func TestLaneBatchesNaturally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.close(t)
		begin := time.Now()
		b.lane.offer(b.deliveries(0, 1, 10))
		if got := <-b.edge.sent; len(got) != 1 || time.Since(begin) != 0 {
			t.Fatalf("%d pushes after %v", len(got), time.Since(begin))
		}
		b.lane.offer(b.deliveries(1, 1, 10))
		synctest.Wait() // the sender is stuck in Send with the second
		for i := range 50 {
			b.lane.offer(b.deliveries(2+i, 1, 10))
		}
		if got := offsets(<-b.edge.sent); len(got) != 1 || got[0] != 1 {
			t.Fatalf("second batch: %v", got)
		}
		got := offsets(<-b.edge.sent)
		if len(got) != 50 || got[0] != 2 || got[49] != 51 {
			t.Fatalf("third batch: %v", got)
		}
		for _, n := range []int{1, 1, 50} {
			b.edge.answers <- delivered(n)
		}
		synctest.Wait()
		if b.claim.count() != 52 || time.Since(begin) != 0 {
			t.Errorf("%d complete after %v", b.claim.count(), time.Since(begin))
		}
	})
}

func TestLaneKeepsItsLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) {
			c.LaneWindow, c.MaxBatchPushes, c.MaxBatchBytes, c.LaneQueueBytes = 2, 4, 1<<10, 64<<10
		})
		defer b.close(t)
		b.lane.offer(b.deliveries(0, 10, 10)) // by count: 4, 4, 2
		b.lane.offer(b.deliveries(10, 3, 500))
		first, second := <-b.edge.sent, <-b.edge.sent
		synctest.Wait()
		if len(first) != 4 || len(second) != 4 {
			t.Fatalf("batches of %d and %d", len(first), len(second))
		}
		select {
		case <-b.edge.sent:
			t.Fatal("a third batch although two are not answered")
		default:
		}
		b.edge.answers <- delivered(4)
		if third := offsets(<-b.edge.sent); len(third) != 4 || third[3] != 11 {
			t.Fatalf("third batch: %v", third) // 10+10+500+500 bytes
		}
		// A full lane takes what fits, in order, and the rest later.
		more := b.deliveries(13, 200, 1000)
		taken, _ := b.lane.offer(more)
		if taken == 0 || taken > 64 {
			t.Fatalf("%d of 200 taken", taken)
		}
		left, err := b.lane.put(t.Context(), more[taken:], b.now()+since(time.Second))
		if err != nil || len(left) != 200-taken {
			t.Errorf("put = %d left, %v; taken %d", len(left), err, taken)
		}
	})
}

// A stream that breaks gives back what it carried; the next one carries it
// again, in order, before anything else.
func TestLaneSendsAgainInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.MaxBatchPushes = 2 })
		defer b.close(t)
		b.lane.offer(b.deliveries(0, 5, 10))
		<-b.edge.sent
		<-b.edge.sent
		b.edge.answers <- delivered(2)
		synctest.Wait()
		b.edge.answers <- nil // results that do not fit: the stream is cut
		<-b.edge.opened
		for _, want := range []int64{2, 4} {
			if got := offsets(<-b.edge.sent); got[0] != want {
				t.Fatalf("batch from %v, want %d", got, want)
			}
		}
		b.edge.answers <- []Result{{Repeat: true}, {Repeat: true}}
		b.edge.answers <- delivered(1)
		synctest.Wait()
		if b.claim.count() != 5 || b.meter.dispatched.Value(int(Repeat)) != 2 || b.meter.dispatched.Value(int(Delivered)) != 3 {
			t.Errorf("%d complete, %d repeats", b.claim.count(), b.meter.dispatched.Value(int(Repeat)))
		}
	})
}

// What an abandoned claim left in a lane is not sent: another owner replays it,
// and a gap here would make the comet take that for a repeat.
func TestLaneThrowsAbandonedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.MaxBatchPushes = 2 })
		defer b.close(t)
		b.lane.offer(b.deliveries(0, 6, 10))
		synctest.Wait() // 0 and 1 are in Send
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if left := b.work.finish(over); left != 6 {
			t.Errorf("%d left, want 6", left)
		}
		abandoned := b.work
		b.work = newWork(b.claim)
		b.lane.offer(b.deliveries(0, 3, 10))
		if got := offsets(<-b.edge.sent); got[0] != 0 || len(got) != 2 {
			t.Fatalf("batch %v", got)
		}
		if got := offsets(<-b.edge.sent); got[0] != 0 || len(got) != 2 {
			t.Fatalf("batch %v, want the new owner's first", got)
		}
		b.edge.answers <- delivered(2)
		if b.claim.count() != 0 {
			t.Error("a record completed after its claim was abandoned")
		}
		b.edge.answers <- []Result{{Repeat: true}, {Repeat: true}}
		<-b.edge.sent
		b.edge.answers <- delivered(1)
		synctest.Wait()
		if b.claim.count() != 3 || abandoned.open != 6 || b.meter.laneBytes.Value() != 0 {
			t.Errorf("%d complete, %d open, %d bytes", b.claim.count(), abandoned.open, b.meter.laneBytes.Value())
		}
	})
}

// When another life answers, this one is over at once, whatever its lease says,
// and it is not tried again while the same life is listed at the address.
func TestLaneOfAnotherLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.close(t)
		b.lane.offer(b.deliveries(0, 3, 10))
		<-b.edge.sent
		b.edge.other.Store(true)
		b.edge.answers <- nil // cuts the stream
		<-b.edge.opened
		synctest.Wait()
		if n := b.meter.dispatched.Value(int(NotHere)); n != 3 || b.claim.count() != 3 {
			t.Errorf("%d not here, %d complete", n, b.claim.count())
		}
		if _, closed := b.lane.offer(b.deliveries(3, 1, 10)); !closed {
			t.Error("the lane still takes pushes")
		}
		time.Sleep(10 * b.cfg.NodeRefresh) // it is listed again and again
		select {
		case <-b.edge.opened:
			t.Error("the life was tried again")
		default:
		}
	})
}

// Symptom: a comet that took a stream and refused the batch on it, as one of
// another version may, got it again at once, without end, with a line in the log each.
// Cause: the pause between attempts began anew with every stream that opened.
func TestStreamsThatOpenAndBreakHaveABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.DispatchTimeout = 20 * time.Second })
		defer b.close(t)
		b.lane.offer(b.deliveries(0, 1, 10))
		sent, over := 0, time.After(20*time.Second)
		for waiting := true; waiting; {
			select {
			case <-b.edge.sent:
				sent++
				b.edge.answers <- nil // cuts the stream
				<-b.edge.opened
			case <-over:
				waiting = false
			}
		}
		// From retry_min to retry_max, and then one or two in each.
		if sent < 15 || sent > 50 {
			t.Errorf("the batch was sent %d times in 20 s", sent)
		}
	})
}

// Symptom: a job kept a little memory for every life of a comet that another
// one had taken the address of, for ever. Cause: such a life has stopped before
// its lease ends, and what left was forgotten only when it stopped.
func TestLivesThatStoppedBeforeTheyLeftAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		defer b.close(t)
		synctest.Wait()
		b.edge.other.Store(true)
		b.lane.offer(b.deliveries(0, 1, 10))
		<-b.edge.sent
		b.edge.answers <- nil // cuts the stream
		<-b.comet.done
		b.router.set()
		time.Sleep(2 * b.cfg.NodeRefresh)
		synctest.Wait()
		b.nodes.mu.Lock()
		defer b.nodes.mu.Unlock()
		if n, left := len(*b.nodes.live.Load()), len(b.nodes.retired); n != 0 || left != 0 {
			t.Errorf("%d comets are listed, %d that left are kept", n, left)
		}
	})
}

// Answers of logic overtake each other. A comet is taken out only by an answer
// that is certainly newer than the last one that listed it.
func TestLateAnswerDoesNotTakeOutAComet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(c *Config) { c.NodeRefresh = time.Minute })
		defer b.close(t)
		time.Sleep(time.Second)
		now := b.now()
		b.nodes.update(now, now+20, []Node{nodeA}, nil)
		b.nodes.update(now-10, now+30, nil, nil)
		b.nodes.update(now+20, now+40, nil, nil)
		if b.comet.present.Err() != nil {
			t.Fatal("taken out by an answer that may be older than the listing")
		}
		if got := b.nodes.update(now+25, now+26, []Node{nodeA}, nil); len(got) != 1 || got[0] != b.comet {
			t.Fatal("another object for the same life")
		}
		b.nodes.update(now+27, now+28, nil, nil)
		if b.comet.present.Err() == nil {
			t.Fatal("still there after a newer answer without it")
		}
		moved := nodeA
		moved.Addr = "a:2"
		before := b.nodes.update(now+29, now+30, []Node{nodeA}, nil)[0]
		after := b.nodes.update(now+31, now+32, []Node{moved}, nil)[0]
		if before == after || before == b.comet || before.present.Err() == nil || after.present.Err() != nil {
			t.Error("the comet did not move")
		}
	})
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pause := backoff{min: 10 * time.Millisecond, max: 100 * time.Millisecond}
		for i, most := range []time.Duration{10, 20, 40, 80, 100, 100} {
			begin := time.Now()
			if !pause.wait(t.Context()) {
				t.Fatal("not waited")
			}
			if took := time.Since(begin); took > most*time.Millisecond || took < most*time.Millisecond/2 {
				t.Errorf("pause %d: %v, want %v to %v", i, took, most*time.Millisecond/2, most*time.Millisecond)
			}
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if pause.wait(over) {
			t.Error("waited although the context had ended")
		}
	})
}

// BenchmarkSplit measures what a record with 1000 keys on four comets costs
// until it is in the lanes' batches.
func BenchmarkSplit(b *testing.B) {
	const comets, targets = 4, 1000
	j, err := New(DefaultConfig(), Deps{Name: "j", Router: &memRouter{}, Edge: newMemEdge(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	d := newDispatcher(j, newWork(&memClaim{}))
	for range comets {
		d.comets = append(d.comets, &comet{})
	}
	record := stream.Record{Message: message.Message{Body: make([]byte, 200)}}
	item := RouteItem{}
	located := Located{}
	for i := range targets {
		key := "key-of-a-device-" + time.Duration(i).String()
		record.Targets = append(record.Targets, message.ToKey(key))
		item.Keys = append(item.Keys, key)
		located.Locations = append(located.Locations, Location{Session: uint64(i), Node: uint32(i % comets), Target: uint32(i)})
	}
	routes := Routes{Results: []Located{located}}
	b.ReportAllocs()
	for b.Loop() {
		d.split([]stream.Record{record}, []RouteItem{item}, routes)
		for _, g := range d.touched {
			d.out[g] = d.out[g][:0]
		}
		d.touched = d.touched[:0]
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/targets, "ns/target")
}
