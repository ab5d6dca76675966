package load

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Route is a way to push.
type Route uint8

// Routes of the push API.
const (
	GoimRoom Route = iota // POST /goim/push/room
	GoimMids              // POST /goim/push/mids
	GoimAll               // POST /goim/push/all
	GoimKeys              // POST /goim/push/keys, for Config.Keys
	V1Batch               // POST /v1/push with several users
)

// Addressee is what a message goes to: a room, everybody, or some users, who
// all get the same body and so count alike.
type Addressee struct {
	Room  string // without type
	Mids  []int64
	Speed int // of GoimAll
}

// PublishConfig describes publishers.
type PublishConfig struct {
	HTTP       []string // host:port of logics; publishers are spread over them
	Route      Route
	To         []Addressee
	Publishers int // each is one connection that sends one push after the other
	BodyBytes  int
	Store      bool          // messages get positions and are kept (Perseid only)
	NoResults  bool          // V1Batch does not ask who is online
	Timeout    time.Duration // of one request
	Patience   time.Duration // see patience; 0 = by the length of the Run
}

// Publisher pushes stamped messages. The numbers continue from one Run to the
// next.
type Publisher struct {
	cfg     PublishConfig
	clock   Clock
	streams int
	workers []*pushWorker
}

// pushWorker is one connection and the addressees it serves, each under one
// stream number.
type pushWorker struct {
	http  httpConn
	turns []turn
	at    int
	body  []byte
	// counted by the worker, read at the end of a run
	stats PublishStats
}

// turn is an addressee as one worker sees it.
type turn struct {
	to      int
	stream  int
	request []byte
	body    int // where the body starts in request; in base64 if wide
	wide    bool
	seq     uint32
}

// PublishStats are those of one Run.
type PublishStats struct {
	BeginNS  int64
	Accepted uint64
	Targets  uint64 // addressees of accepted pushes, users counted one by one
	Failed   map[string]int
	// Unsent were due and could not be sent before the patience was over.
	Unsent uint64
	// API is from sending a request to its answer; Lag from when a message was
	// due to its sending.
	API Hist
	Lag Hist
}

// NewPublisher makes requests ready. Several publishers that serve one
// addressee number their messages apart, as streams 0, 1 ...
func NewPublisher(cfg PublishConfig) (*Publisher, error) {
	if cfg.Publishers < 1 || len(cfg.To) == 0 || len(cfg.HTTP) == 0 || cfg.BodyBytes < StampLen {
		return nil, fmt.Errorf("load: %d publishers, %d addressees, %d logics, bodies of %d bytes", cfg.Publishers, len(cfg.To), len(cfg.HTTP), cfg.BodyBytes)
	}
	p := &Publisher{cfg: cfg, clock: NewClock(), streams: StreamsFor(cfg.Publishers, len(cfg.To))}
	if p.streams > MaxStreams {
		return nil, fmt.Errorf("load: %d publishers for one addressee, allowed are %d", p.streams, MaxStreams)
	}
	for i := range cfg.Publishers {
		w := &pushWorker{http: httpConn{addr: cfg.HTTP[i%len(cfg.HTTP)], timeout: cfg.Timeout}, body: make([]byte, cfg.BodyBytes)}
		if cfg.Publishers >= len(cfg.To) {
			w.turns = append(w.turns, p.turn(i%len(cfg.To), i/len(cfg.To), w.http.addr))
		} else {
			for to := i; to < len(cfg.To); to += cfg.Publishers {
				w.turns = append(w.turns, p.turn(to, 0, w.http.addr))
			}
		}
		p.workers = append(p.workers, w)
	}
	return p, nil
}

// StreamsFor is the number of streams that so many publishers need.
func StreamsFor(publishers, addressees int) int { return (publishers + addressees - 1) / addressees }

func (p *Publisher) turn(to, stream int, host string) turn {
	t := turn{to: to, stream: stream}
	a := &p.cfg.To[to]
	path, before, after := "", "", ""
	size := p.cfg.BodyBytes
	switch p.cfg.Route {
	case GoimRoom:
		path = fmt.Sprintf("/goim/push/room?operation=%d&type=%s&room=%s", OpRoom, RoomType, url.QueryEscape(a.Room))
	case GoimAll:
		path = fmt.Sprintf("/goim/push/all?operation=%d&speed=%d", OpAll, a.Speed)
	case GoimMids:
		path = fmt.Sprintf("/goim/push/mids?operation=%d", OpUser)
		for _, mid := range a.Mids {
			path += "&mids=" + strconv.FormatInt(mid, 10)
		}
	case GoimKeys:
		path = fmt.Sprintf("/goim/push/keys?operation=%d", OpUser)
		for _, mid := range a.Mids {
			path += "&keys=" + KeyOf(mid)
		}
	case V1Batch:
		path = "/v1/push"
		var list strings.Builder
		for i, mid := range a.Mids {
			if i > 0 {
				list.WriteByte(',')
			}
			fmt.Fprintf(&list, `{"mid":%d}`, mid)
		}
		results := ""
		if p.cfg.NoResults {
			results = `"results":false,`
		}
		before, after = fmt.Sprintf(`{"op":%d,"store":%t,%s"body_base64":"`, OpUser, p.cfg.Store, results), `","targets":[`+list.String()+`]}`
		size, t.wide = base64.StdEncoding.EncodedLen(size), true
	}
	if p.cfg.Store && p.cfg.Route != V1Batch {
		path += "&store=1"
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		path, host, map[bool]string{false: "application/octet-stream", true: "application/json"}[t.wide], len(before)+size+len(after), before)
	t.body = len(head)
	t.request = append(append([]byte(head), make([]byte, size)...), after...)
	return t
}

// Run pushes perSecond messages, over all addressees in turn, for so long; 0
// per second means that every publisher sends the next as soon as the last one
// is answered, and dues are then the times of sending.
func (p *Publisher) Run(ctx context.Context, perSecond float64, lasting time.Duration, sent *atomic.Uint64) PublishStats {
	// The first message is due when everybody is ready.
	begin := p.clock.Now() + int64(20*time.Millisecond)
	return p.RunAt(ctx, begin, perSecond, lasting, sent)
}

// RunAt is Run with the time when the first message is due.
func (p *Publisher) RunAt(ctx context.Context, beginNS int64, perSecond float64, lasting time.Duration, sent *atomic.Uint64) PublishStats {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wait sync.WaitGroup
	for i, w := range p.workers {
		w.stats = PublishStats{Failed: map[string]int{}}
		wait.Go(func() { p.work(ctx, w, i, beginNS, perSecond, lasting, sent) })
	}
	wait.Wait()
	sum := PublishStats{BeginNS: beginNS, Failed: map[string]int{}}
	for _, w := range p.workers {
		sum.Accepted += w.stats.Accepted
		sum.Targets += w.stats.Targets
		sum.Failed = addCounts(sum.Failed, w.stats.Failed)
		sum.Unsent += w.stats.Unsent
		sum.API.Merge(&w.stats.API)
		sum.Lag.Merge(&w.stats.Lag)
	}
	return sum
}

// connectEarly is how long before its message is due a connection is made.
const connectEarly = time.Second

// patience is how long after its time a Run still sends what was due before.
func (p *Publisher) patience(lasting time.Duration) time.Duration {
	return cmp.Or(p.cfg.Patience, time.Second+lasting/4)
}

func (p *Publisher) work(ctx context.Context, w *pushWorker, index int, beginNS int64, perSecond float64, lasting time.Duration, sent *atomic.Uint64) {
	end := beginNS + int64(lasting)
	for n := 0; ctx.Err() == nil; n++ {
		due := max(beginNS, p.clock.Now())
		if perSecond > 0 {
			due = beginNS + int64(float64(index+n*len(p.workers))/perSecond*1e9)
		}
		once := perSecond == 0 && n == 0 // however late it is
		if due >= end && !once || !sleepUntil(ctx, p.clock, due-int64(connectEarly), false) {
			return
		}
		_ = w.http.connect(ctx) // not in the time of the message; post tells what fails
		if !sleepUntil(ctx, p.clock, due, perSecond <= exactRate) {
			return
		}
		now := p.clock.Now()
		if perSecond == 0 {
			due = now
		} else if now > end+int64(p.patience(lasting)) {
			for ; due < end; n++ {
				w.stats.Unsent++
				due = beginNS + int64(float64(index+(n+1)*len(p.workers))/perSecond*1e9)
			}
			return
		}
		t := &w.turns[w.at]
		w.at = (w.at + 1) % len(w.turns)
		PutStamp(w.body, Stamp{DueNS: due, Stream: uint8(t.stream), Seq: t.seq})
		if t.wide {
			base64.StdEncoding.Encode(t.request[t.body:], w.body)
		} else {
			copy(t.request[t.body:], w.body)
		}
		accepted, why := w.http.post(ctx, t.request)
		w.stats.Lag.Record(now - due)
		if !accepted {
			// The number is used again: if this push arrived after all, the
			// next one counts as its duplicate, and nothing counts as lost.
			w.stats.Failed[why]++
			continue
		}
		w.stats.API.Record(p.clock.Now() - now)
		t.seq++
		w.stats.Accepted++
		w.stats.Targets += uint64(max(1, len(p.cfg.To[t.to].Mids)))
		if sent != nil {
			sent.Add(1)
		}
	}
}

// Go's timers are up to a millisecond late in an idle process. Up to exactRate
// pushes per second the end of the wait is the kernel's; it costs a thread and
// a system call, which at higher rates would take from the servers what they
// are measured by.
const (
	exactRate  = 500
	timersLate = 1500 * time.Microsecond
)

// sleepUntil waits until the clock shows due, and says false when ctx ended.
func sleepUntil(ctx context.Context, clock Clock, due int64, exact bool) bool {
	wait := time.Duration(due - clock.Now())
	if exact {
		wait -= timersLate
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	for left := due - clock.Now(); exact && left > 0; left = due - clock.Now() {
		ts := unix.NsecToTimespec(left)
		_ = unix.Nanosleep(&ts, nil) // a signal ends it early
	}
	return true
}

// Now is the publisher's clock.
func (p *Publisher) Now() int64 { return p.clock.Now() }

// Streams is the number of streams an addressee may have.
func (p *Publisher) Streams() int { return p.streams }

// Published are the next numbers, by stream and addressee.
func (p *Publisher) Published() [][]uint32 {
	counts := make([][]uint32, p.streams)
	for s := range counts {
		counts[s] = make([]uint32, len(p.cfg.To))
	}
	for _, w := range p.workers {
		for _, t := range w.turns {
			counts[t.stream][t.to] = t.seq
		}
	}
	return counts
}

// Close ends the connections to the push API.
func (p *Publisher) Close() {
	for _, w := range p.workers {
		w.http.close()
	}
}
