package comet

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// RoomIndex knows which rooms have members on this comet, and tells every job:
// a snapshot when the job comes, then changes. A job sends a room push only to
// the comets that have the room, so a client must not hear that it is in a
// room before the jobs know: the join of a room's first member is confirmed
// when every job that watches has acknowledged it.
//
// # Concurrency
//
// All methods are safe for concurrent use. Buckets call enter and exit only
// for their own first and last member of a room.
type RoomIndex struct {
	timeout      time.Duration
	onUnconfirm  func()
	mu           sync.Mutex
	rooms        map[string]*roomCount
	version      uint64 // of the newest change
	watchers     map[*RoomWatcher]struct{}
	waiting      map[*confirmation]struct{} // for a version above confirmedMin
	confirmedMin atomic.Uint64              // every watcher has acknowledged this version
}

// roomCount is what all buckets share about one room.
type roomCount struct {
	version uint64 // of the change that added the room
	buckets int    // that have members; under RoomIndex.mu
	local   atomic.Int32
	cluster atomic.Int32 // sessions in the cluster, as of the last exchange
}

type confirmation struct {
	version uint64
	timer   *time.Timer
	once    *sync.Once
	fn      func()
}

// ErrWatcherClosed ends RoomWatcher.Next.
var ErrWatcherClosed = errors.New("comet: room watcher closed")

// maxUpdateRooms bounds one update, so that it stays far below the size limit
// of a gRPC message.
const maxUpdateRooms = 4096

func newRoomIndex(timeout time.Duration, onUnconfirmed func()) *RoomIndex {
	x := &RoomIndex{
		timeout:     timeout,
		onUnconfirm: onUnconfirmed,
		rooms:       map[string]*roomCount{},
		watchers:    map[*RoomWatcher]struct{}{},
		waiting:     map[*confirmation]struct{}{},
	}
	x.confirmedMin.Store(^uint64(0))
	return x
}

// enter counts a bucket in for a room and returns what is shared about it.
func (x *RoomIndex) enter(key string) *roomCount {
	x.mu.Lock()
	defer x.mu.Unlock()
	rc := x.rooms[key]
	if rc == nil {
		x.version++
		rc = &roomCount{version: x.version}
		x.rooms[key] = rc
		x.changed(key, true)
	}
	rc.buckets++
	return rc
}

// exit counts a bucket out.
func (x *RoomIndex) exit(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	rc := x.rooms[key]
	if rc.buckets--; rc.buckets == 0 {
		x.version++
		delete(x.rooms, key)
		x.changed(key, false)
	}
}

// changed is called with the lock held.
func (x *RoomIndex) changed(key string, added bool) {
	for w := range x.watchers {
		w.pending[key] = added
		w.version = x.version
		w.signal()
	}
	x.recount()
}

// recount finds the version that every watcher has acknowledged, and confirms
// the joins that it covers. Called with the lock held.
func (x *RoomIndex) recount() {
	low := ^uint64(0)
	for w := range x.watchers {
		if w.acked < low && w.acked < x.version {
			low = w.acked
		}
	}
	if x.confirmedMin.Swap(low) >= low {
		return // nothing that waits is covered now: joins must not cost what waits
	}
	for c := range x.waiting {
		if c.version <= low {
			c.timer.Stop()
			delete(x.waiting, c)
			go c.once.Do(c.fn)
		}
	}
}

// confirmed tells whether every job knows the changes up to version.
func (x *RoomIndex) confirmed(version uint64) bool { return version <= x.confirmedMin.Load() }

// whenConfirmed calls fn once, from another goroutine, when every job knows
// the changes up to version, or after the join timeout (counted): a job that
// does not answer must not keep clients out.
func (x *RoomIndex) whenConfirmed(version uint64, fn func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	once := &sync.Once{}
	if x.confirmed(version) {
		go once.Do(fn)
		return
	}
	c := &confirmation{version: version, fn: fn, once: once}
	c.timer = time.AfterFunc(x.timeout, func() {
		x.mu.Lock()
		delete(x.waiting, c)
		x.mu.Unlock()
		once.Do(func() {
			x.onUnconfirm()
			fn()
		})
	})
	x.waiting[c] = struct{}{}
}

// count is the number of rooms.
func (x *RoomIndex) count() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.rooms)
}

// lockedRooms is how many rooms are looked at before those who wait for the lock
// have their turn: loops take it in joins and leaves, and must not stand still
// while hundreds of thousands of rooms are counted.
const lockedRooms = 256

// breathe lets others have the lock, which it is called with.
func (x *RoomIndex) breathe() {
	x.mu.Unlock()
	runtime.Gosched()
	x.mu.Lock()
}

// counts returns the sessions per room of this comet. Rooms that come or go
// meanwhile may be in it or not.
func (x *RoomIndex) counts() map[string]int32 {
	out := make(map[string]int32, x.count())
	x.mu.Lock()
	defer x.mu.Unlock()
	for key, rc := range x.rooms {
		if out[key] = rc.local.Load(); len(out)%lockedRooms == 0 {
			x.breathe()
		}
	}
	return out
}

// setCluster takes the cluster's counts of rooms that are here.
func (x *RoomIndex) setCluster(counts map[string]int32) {
	x.mu.Lock()
	defer x.mu.Unlock()
	seen := 0
	for key, n := range counts {
		if rc := x.rooms[key]; rc != nil {
			rc.cluster.Store(n)
		}
		if seen++; seen%lockedRooms == 0 {
			x.breathe()
		}
	}
}

// RoomUpdate is a part of the snapshot, or changes.
type RoomUpdate struct {
	Version     uint64
	Snapshot    bool // Added is a part of the whole set
	SnapshotEnd bool
	Added       []string
	Removed     []string
}

// RoomWatcher is one job's view of the index. Next is for one goroutine, Ack
// for any.
type RoomWatcher struct {
	x        *RoomIndex
	job      string
	notify   chan struct{}
	snapshot []string
	initial  uint64
	started  bool
	// under x.mu
	pending map[string]bool // room -> added
	version uint64          // of pending
	sending []roomChange    // taken from pending, told in parts
	whole   uint64          // version that the job has when sending is empty
	told    uint64          // version that the job has with what it was told
	acked   uint64
	closed  bool
}

type roomChange struct {
	key   string
	added bool
}

// Watch starts the view of a job. Joins from now on wait for its
// acknowledgement; those before are in its snapshot.
func (x *RoomIndex) Watch(job string) *RoomWatcher {
	x.mu.Lock()
	defer x.mu.Unlock()
	for old := range x.watchers {
		if old.closed && old.job == job {
			old.forget()
		}
	}
	w := &RoomWatcher{
		x: x, job: job, notify: make(chan struct{}, 1), pending: map[string]bool{},
		initial: x.version, version: x.version, told: x.version, acked: x.version,
	}
	w.snapshot = make([]string, 0, len(x.rooms))
	for key := range x.rooms {
		w.snapshot = append(w.snapshot, key)
	}
	x.watchers[w] = struct{}{}
	return w
}

func (w *RoomWatcher) signal() {
	select {
	case w.notify <- struct{}{}:
	default:
	}
}

// Next blocks until there is something to tell.
func (w *RoomWatcher) Next(ctx context.Context) (RoomUpdate, error) {
	if !w.started {
		n := min(len(w.snapshot), maxUpdateRooms)
		u := RoomUpdate{Version: w.initial, Snapshot: true, Added: w.snapshot[:n]}
		w.snapshot = w.snapshot[n:]
		if len(w.snapshot) == 0 {
			w.started, w.snapshot, u.SnapshotEnd = true, nil, true
		}
		return u, nil
	}
	for {
		if u, ok, err := w.take(); ok || err != nil {
			return u, err
		}
		select {
		case <-w.notify:
		case <-ctx.Done():
			return RoomUpdate{}, ctx.Err()
		}
	}
}

func (w *RoomWatcher) take() (u RoomUpdate, ok bool, err error) {
	w.x.mu.Lock()
	defer w.x.mu.Unlock()
	if w.closed {
		return u, false, ErrWatcherClosed
	}
	if len(w.sending) == 0 {
		if len(w.pending) == 0 {
			return u, false, nil
		}
		for key, added := range w.pending {
			w.sending = append(w.sending, roomChange{key, added})
		}
		clear(w.pending)
		w.whole = w.version
	}
	n := min(len(w.sending), maxUpdateRooms)
	for _, c := range w.sending[:n] {
		if c.added {
			u.Added = append(u.Added, c.key)
		} else {
			u.Removed = append(u.Removed, c.key)
		}
	}
	if w.sending = w.sending[n:]; len(w.sending) == 0 {
		w.sending, w.told = nil, w.whole
	}
	u.Version = w.told // only the last part brings the job to a new version
	return u, true, nil
}

// Ack says that the job has applied everything up to version.
func (w *RoomWatcher) Ack(version uint64) {
	w.x.mu.Lock()
	defer w.x.mu.Unlock()
	if version > w.acked && !w.closed {
		w.acked = version
		w.x.recount()
	}
}

// Close ends the view. The job may not have noticed yet that its stream broke
// and still go by what it knew, so joins go on waiting for it, until it has a
// new view or a join timeout has passed.
func (w *RoomWatcher) Close() {
	w.x.mu.Lock()
	defer w.x.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	w.signal()
	for other := range w.x.watchers {
		// It came before this one was noticed to be broken.
		if other != w && !other.closed && other.job == w.job {
			w.forget()
			return
		}
	}
	time.AfterFunc(w.x.timeout, func() {
		w.x.mu.Lock()
		defer w.x.mu.Unlock()
		w.forget()
	})
}

// forget lets joins wait for the view no more; the index's lock is held.
func (w *RoomWatcher) forget() {
	delete(w.x.watchers, w)
	w.x.recount()
}
