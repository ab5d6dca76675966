package job_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
)

// applied is one push as a session got it.
type applied struct {
	body        string
	incarnation uint64
}

type guardKey struct {
	log         string
	partition   int32
	lane, lanes uint32
}

// stubComet is a comet behind a real gRPC server: it keeps the contract of
// comet.proto (guard, results in order, room index with acks), writes down what
// every session got, and misbehaves on demand.
type stubComet struct {
	cometv1.UnimplementedCometServer
	t    testing.TB
	name string
	addr string

	mu          sync.Mutex
	server      *grpc.Server
	listener    net.Listener
	incarnation uint64
	guard       map[guardKey]int64
	sessions    map[uint64]bool
	got         map[uint64][]applied // by session, over all incarnations
	pushes      []*cometv1.Push      // as applied, without targets of others
	repeats     int
	rooms       map[string]map[uint64]bool
	version     uint64
	watchers    map[*roomWatcher]bool
	lanes       map[context.Context]context.CancelFunc
	follows     int           // Rooms streams so far
	gate        chan struct{} // not nil: batches wait before they are applied
	waiting     int           // batches that do
	delay       time.Duration // per batch
	mute        int           // so many batches are applied and then the stream breaks without an answer
	forget      bool          // answers without outcomes
	refuse      bool          // streams end with Unavailable at once
}

type roomWatcher struct {
	acked   uint64
	updates chan *cometv1.RoomsUpdate
	changed chan struct{} // closed and replaced by each ack
	cancel  context.CancelFunc
}

func newStubComet(t testing.TB, name string) *stubComet {
	c := &stubComet{
		t: t, name: name, incarnation: 1,
		got:   map[uint64][]applied{},
		rooms: map[string]map[uint64]bool{},
	}
	c.reset()
	c.start()
	t.Cleanup(c.stop)
	return c
}

func (c *stubComet) reset() {
	c.guard = map[guardKey]int64{}
	c.sessions = map[uint64]bool{}
	c.rooms = map[string]map[uint64]bool{}
	c.watchers = map[*roomWatcher]bool{}
	c.lanes = map[context.Context]context.CancelFunc{}
}

func (c *stubComet) start() {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.serve(lis)
}

func (c *stubComet) serve(lis net.Listener) {
	server := grpc.NewServer(grpc.MaxRecvMsgSize(16<<20),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	cometv1.RegisterCometServer(server, c)
	c.mu.Lock()
	c.server, c.listener, c.addr = server, lis, lis.Addr().String()
	c.mu.Unlock()
	go func() { _ = server.Serve(lis) }()
}

func (c *stubComet) stop() {
	c.mu.Lock()
	server, gate := c.server, c.gate
	c.server, c.gate = nil, nil
	for _, cancel := range c.lanes { // what waits at the gate is not applied
		cancel()
	}
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
	if server != nil {
		server.Stop()
	}
}

// restart is the death of this life and the birth of the next at its address.
// Somebody listens there all the time: a refusal would be a death to the job,
// and the address could go to another process.
func (c *stubComet) restart() {
	c.mu.Lock()
	lis := c.listener.(*net.TCPListener)
	c.mu.Unlock()
	file, err := lis.File()
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close()
	next, err := net.FileListener(file)
	if err != nil {
		c.t.Fatal(err)
	}
	c.stop()
	c.mu.Lock()
	c.incarnation++
	c.reset()
	c.mu.Unlock()
	c.serve(next)
}

// hold makes batches wait; the result lets them go on.
func (c *stubComet) hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	gate := make(chan struct{})
	c.gate = gate
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.gate == gate {
			c.gate = nil
		}
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
}

// holdNoMore lets batches on other streams pass, but not those that wait.
func (c *stubComet) holdNoMore() { c.set(func() { c.gate = nil }) }

func (c *stubComet) set(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// breakStreams ends all streams from this side. It returns how many Rooms
// streams there were so far.
func (c *stubComet) breakStreams() (follows int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.lanes {
		cancel()
	}
	c.breakRooms()
	return c.follows
}

// breakRooms ends the room indexes; mu is held.
func (c *stubComet) breakRooms() {
	for w := range c.watchers {
		w.cancel()
	}
}

// followed is nil when so many Rooms streams were asked for.
func (c *stubComet) followed(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.follows < n {
		return fmt.Errorf("comet %s: %d room streams, want %d", c.name, c.follows, n)
	}
	return nil
}

// join puts a session into a room as a comet does: when the room was empty, it
// returns after every connected job has acknowledged it.
func (c *stubComet) join(session uint64, room string) {
	c.mu.Lock()
	first := len(c.rooms[room]) == 0
	if first {
		c.rooms[room] = map[uint64]bool{}
	}
	c.rooms[room][session] = true
	if !first {
		c.mu.Unlock()
		return
	}
	version := c.change(&cometv1.RoomsUpdate{Added: []string{room}})
	watchers := make([]*roomWatcher, 0, len(c.watchers))
	for w := range c.watchers {
		watchers = append(watchers, w)
	}
	c.mu.Unlock()
	deadline := time.After(patience)
	for _, w := range watchers {
		for {
			c.mu.Lock()
			done, changed := w.acked >= version || !c.watchers[w], w.changed
			c.mu.Unlock()
			if done {
				break
			}
			select {
			case <-changed:
			case <-deadline:
				c.t.Error("a job did not acknowledge a room")
				return
			}
		}
	}
}

func (c *stubComet) quit(session uint64, room string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.rooms[room], session)
	if len(c.rooms[room]) == 0 {
		c.change(&cometv1.RoomsUpdate{Removed: []string{room}})
	}
}

// change sends an update to all watchers; mu is held.
func (c *stubComet) change(u *cometv1.RoomsUpdate) uint64 {
	c.version++
	u.Node, u.Incarnation, u.Version = c.name, c.incarnation, c.version
	for w := range c.watchers {
		w.updates <- u
	}
	return c.version
}

// Dispatch is one lane.
func (c *stubComet) Dispatch(stream grpc.BidiStreamingServer[cometv1.DispatchRequest, cometv1.DispatchReply]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	c.mu.Lock()
	incarnation, refuse := c.incarnation, c.refuse
	if !refuse && (hello.Incarnation == 0 || hello.Incarnation == incarnation) {
		c.lanes[ctx] = cancel
	}
	c.mu.Unlock()
	if refuse {
		return status.Error(codes.Unavailable, "refused")
	}
	if hello.Incarnation != 0 && hello.Incarnation != incarnation {
		return status.Error(codes.FailedPrecondition, "another incarnation")
	}
	defer c.set(func() { delete(c.lanes, ctx) })
	err = stream.Send(&cometv1.DispatchReply{Kind: &cometv1.DispatchReply_Welcome{
		Welcome: &cometv1.Welcome{Node: c.name, Incarnation: incarnation}}})
	if err != nil {
		return err
	}
	batches, failed := make(chan *cometv1.Batch), make(chan error, 1)
	go func() {
		for {
			in, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case batches <- in.GetBatch():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case batch := <-batches:
			result, err := c.apply(ctx, hello, incarnation, batch)
			if err != nil {
				return err
			}
			err = stream.Send(&cometv1.DispatchReply{Kind: &cometv1.DispatchReply_Result{Result: result}})
			if err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return status.Error(codes.Unavailable, "broken on purpose")
		}
	}
}

func (c *stubComet) apply(ctx context.Context, hello *cometv1.Hello, incarnation uint64, batch *cometv1.Batch) (*cometv1.BatchResult, error) {
	broken := status.Error(codes.Unavailable, "broken on purpose")
	c.mu.Lock()
	gate, delay := c.gate, c.delay
	c.mu.Unlock()
	if gate != nil {
		c.set(func() { c.waiting++ })
		select {
		case <-gate:
		case <-ctx.Done():
		}
		c.set(func() { c.waiting-- })
		if ctx.Err() != nil {
			return nil, broken
		}
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, broken
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if incarnation != c.incarnation {
		return nil, broken
	}
	out := &cometv1.BatchResult{}
	last := map[int32]int64{}
	for _, p := range batch.Pushes {
		if was, ok := last[p.Partition]; ok && p.Offset <= was {
			c.t.Errorf("comet %s lane %d: offset %d of partition %d after %d in one batch", c.name, hello.Lane, p.Offset, p.Partition, was)
		}
		last[p.Partition] = p.Offset
		out.Results = append(out.Results, c.applyPush(guardKey{hello.Log, p.Partition, hello.Lane, hello.Lanes}, p))
	}
	if c.mute > 0 {
		c.mute--
		return nil, broken
	}
	return out, nil
}

func (c *stubComet) applyPush(key guardKey, p *cometv1.Push) *cometv1.PushResult {
	r := &cometv1.PushResult{}
	if top, ok := c.guard[key]; ok && p.Offset <= top {
		c.repeats++
		r.Repeat = true
		return r
	}
	c.guard[key] = p.Offset
	c.pushes = append(c.pushes, p)
	deliver := func(session uint64) {
		c.got[session] = append(c.got[session], applied{string(p.Body), c.incarnation})
		r.Delivered++
	}
	switch {
	case p.Room != "":
		for session := range c.rooms[p.Room] {
			deliver(session)
		}
	case p.All:
		for session := range c.sessions {
			deliver(session)
		}
	case c.forget:
		return r
	default:
		for _, session := range p.Sessions {
			if !c.sessions[session] {
				r.NotHere++
				r.Sessions = append(r.Sessions, cometv1.Outcome_NOT_HERE)
				continue
			}
			deliver(session)
			r.Sessions = append(r.Sessions, cometv1.Outcome_DELIVERED)
		}
	}
	return r
}

// Rooms sends the snapshot in pieces of two rooms, then changes.
func (c *stubComet) Rooms(stream grpc.BidiStreamingServer[cometv1.RoomsAck, cometv1.RoomsUpdate]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	w := &roomWatcher{updates: make(chan *cometv1.RoomsUpdate, 10_000), changed: make(chan struct{}), cancel: cancel}
	c.mu.Lock()
	c.follows++
	if c.refuse {
		c.mu.Unlock()
		return status.Error(codes.Unavailable, "refused")
	}
	c.watchers[w] = true
	var rooms []string
	for room, members := range c.rooms {
		if len(members) > 0 {
			rooms = append(rooms, room)
		}
	}
	for part := range slices.Chunk(rooms, 2) {
		c.version++
		w.updates <- &cometv1.RoomsUpdate{Node: c.name, Incarnation: c.incarnation, Version: c.version, Snapshot: true, Added: part}
	}
	c.version++
	w.updates <- &cometv1.RoomsUpdate{Node: c.name, Incarnation: c.incarnation, Version: c.version, Snapshot: true, SnapshotEnd: true}
	c.mu.Unlock()
	defer c.set(func() {
		delete(c.watchers, w)
		close(w.changed)
		w.changed = make(chan struct{})
	})
	go func() {
		for {
			ack, err := stream.Recv()
			if err != nil {
				cancel()
				return
			}
			c.set(func() {
				w.acked = max(w.acked, ack.Version)
				close(w.changed)
				w.changed = make(chan struct{})
			})
		}
	}()
	for {
		select {
		case u := <-w.updates:
			if err := stream.Send(u); err != nil {
				return err
			}
		case <-ctx.Done():
			return status.Error(codes.Unavailable, "broken on purpose")
		}
	}
}

// indexed is nil when n jobs have acknowledged the newest version.
func (c *stubComet) indexed(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := 0
	for w := range c.watchers {
		if w.acked == c.version {
			count++
		}
	}
	if count < n {
		return fmt.Errorf("comet %s: %d of %d jobs acknowledged version %d", c.name, count, n, c.version)
	}
	return nil
}

// open is nil when n lanes are open.
func (c *stubComet) open(n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lanes) != n {
		return fmt.Errorf("comet %s: %d lanes open, want %d", c.name, len(c.lanes), n)
	}
	return nil
}

// bodies are what a session got, as sent.
func (c *stubComet) bodies(session uint64) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, a := range c.got[session] {
		out = append(out, a.body)
	}
	return out
}
