package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/perseid-im/perseid/pkg/client"
	"github.com/perseid-im/perseid/scripts/e2e/oracle"
)

// chaosLoad is producers that send each message until it is accepted, under one
// key, and note what they were told.
type chaosLoad struct {
	cfg     chaosConfig
	hc      *http.Client
	logic   func() string // address of any
	done    chan struct{} // closed: no new messages
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	accepted atomic.Int64 // requests
	retries  atomic.Int64

	mu      sync.Mutex
	sent    []oracle.Sent
	count   map[string]int // accepted, by timeline
	refused []string       // answers that another try does not change
}

func newChaosLoad(t *testing.T, cfg chaosConfig, logic func() string) *chaosLoad {
	t.Helper()
	hc := httpClient(t)
	hc.Timeout = 8 * time.Second // so that a repeat may overtake the first try
	l := &chaosLoad{cfg: cfg, hc: hc, logic: logic, done: make(chan struct{}), count: map[string]int{}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	t.Cleanup(func() {
		l.cancel()
		l.running.Wait()
	})
	return l
}

func (c chaosConfig) timelines() []string {
	var tls []string
	for i := range c.inboxes {
		tls = append(tls, "u:"+strconv.Itoa(i+1))
	}
	for i := range c.rooms {
		tls = append(tls, fmt.Sprintf("r:live://%d", i+1))
	}
	return tls
}

// note keeps what became of one message in its timelines.
func (l *chaosLoad) note(producer string, n int, tls []string, id string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := oracle.Sent{Producer: producer, N: n}
	if err == nil {
		b, bad := hex.DecodeString(id)
		if len(b) != len(s.ID) {
			l.refused = append(l.refused, fmt.Sprintf("%s/%d: accepted as %q: %v", producer, n, id, bad))
			return
		}
		s.Accepted, s.ID = true, oracle.ID(b)
		l.accepted.Add(1)
	}
	for _, tl := range tls {
		s.Timeline = tl
		l.sent = append(l.sent, s)
		if s.Accepted {
			l.count[tl]++
		}
	}
}

func (l *chaosLoad) refuse(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = append(l.refused, text)
}

// push sends one message over HTTP until it is accepted.
func (l *chaosLoad) push(producer string, n int, tls []string) {
	targets := make([]string, len(tls))
	for i, tl := range tls {
		if mid, ok := strings.CutPrefix(tl, "u:"); ok {
			targets[i] = fmt.Sprintf(`{"mid":%s}`, mid)
		} else {
			targets[i] = fmt.Sprintf(`{"room":%q}`, strings.TrimPrefix(tl, "r:"))
		}
	}
	key := fmt.Sprintf("%s|%d", producer, n)
	body := fmt.Sprintf(`{"op":1000,"kind":"notice","store":true,"body":%q,"targets":[%s]}`, key, strings.Join(targets, ","))
	for l.ctx.Err() == nil {
		id, again, err := l.attempt(key, body)
		if err == nil {
			l.note(producer, n, tls, id, nil)
			return
		}
		if !again {
			l.refuse(err.Error())
			break
		}
		l.retries.Add(1)
		select {
		case <-time.After(50 * time.Millisecond): // a caller's pause
		case <-l.ctx.Done():
		}
	}
	l.note(producer, n, tls, "", errors.New("no answer"))
}

func (l *chaosLoad) attempt(key, body string) (id string, again bool, err error) {
	req, err := http.NewRequestWithContext(l.ctx, http.MethodPost, "http://"+l.logic()+"/v1/push", strings.NewReader(body))
	if err != nil {
		return "", false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	status, answer, err := do(l.hc, req)
	switch {
	case err != nil:
		return "", true, err
	case status == http.StatusAccepted:
		var reply struct {
			ID string `json:"msg_id"`
		}
		err := json.Unmarshal([]byte(answer), &reply)
		return reply.ID, false, err
	}
	return "", status >= 500 || status == http.StatusTooManyRequests, fmt.Errorf("%s: %d %s", key, status, answer)
}

// warm sends one message to every timeline, so that every follower stands in it.
func (l *chaosLoad) warm() {
	for i, tl := range l.cfg.timelines() {
		l.push("warm", i+1, []string{tl})
	}
}

// start begins the load: one message in ten over HTTP goes to three timelines.
func (l *chaosLoad) start(fs *followers) {
	all := l.cfg.timelines()
	begin := func(i int, send func(n int, r *rand.Rand)) {
		l.running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(l.cfg.seed), uint64(i)))
			every := time.Duration(l.cfg.producers+l.cfg.publishers) * time.Second / time.Duration(l.cfg.rate)
			timer := time.NewTimer(time.Duration(r.Float64() * float64(every)))
			defer timer.Stop()
			for n := 1; ; n++ {
				select {
				case <-l.done:
					return
				case <-timer.C:
				}
				timer.Reset(every)
				send(n, r)
			}
		})
	}
	for i := range l.cfg.producers {
		begin(i, func(n int, r *rand.Rand) {
			to := []string{random(r, all)}
			if r.IntN(2) == 0 {
				to[0] = all[l.cfg.inboxes+r.IntN(l.cfg.rooms)]
			}
			if r.IntN(10) == 0 {
				to = nil
				for _, at := range r.Perm(len(all))[:3] {
					to = append(to, all[at])
				}
			}
			l.push(fmt.Sprint("p", i), n, to)
		})
	}
	for i := range l.cfg.publishers {
		begin(l.cfg.producers+i, func(n int, r *rand.Rand) { l.publish(fs.all[i], n, r) })
	}
}

// publish sends one chat message over a client's connection: to its room, or to
// another user, of which its own inbox gets a copy.
func (l *chaosLoad) publish(f *follower, n int, r *rand.Rand) {
	tls := []string{"r:" + f.room}
	flags := map[string]bool{"sender_sync": false}
	if r.IntN(2) == 0 {
		other := 1 + (f.mid+int64(r.IntN(l.cfg.inboxes-1)))%int64(l.cfg.inboxes)
		tls = []string{fmt.Sprintf("u:%d", other), fmt.Sprintf("u:%d", f.mid)}
		flags = map[string]bool{"sender_sync": true}
	}
	body := fmt.Sprintf("%s|%d", f.name, n)
	for l.ctx.Err() == nil {
		id, err := f.sdk.Publish(l.ctx, client.Outgoing{To: tls[0], Op: 1000, Body: []byte(body), ClientID: body, Flags: flags})
		if err == nil {
			l.note(f.name, n, tls, id, nil)
			return
		}
		l.retries.Add(1)
		if refused, ok := errors.AsType[*client.RefusedError](err); ok && refused.Code != http.StatusForbidden {
			l.refuse(fmt.Sprintf("%s: %v", body, err))
			break
		}
		select {
		case <-time.After(50 * time.Millisecond): // it is not in its room yet
		case <-l.ctx.Done():
		}
	}
	l.note(f.name, n, tls, "", errors.New("no answer"))
}

// finish ends the load when all that was begun is accepted.
func (l *chaosLoad) finish(t *testing.T, within time.Duration) {
	t.Helper()
	close(l.done)
	bound := time.AfterFunc(within, l.cancel)
	defer bound.Stop()
	l.running.Wait()
	if l.ctx.Err() != nil {
		t.Errorf("%s after the last fault, pushes were still not accepted", within)
	}
}

func (l *chaosLoad) counts() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := map[string]int{}
	for tl, n := range l.count {
		counts[tl] = n
	}
	return counts
}

// more waits until n more requests were accepted.
func (l *chaosLoad) more(t *testing.T, n int64, within time.Duration) {
	t.Helper()
	was := l.accepted.Load()
	waitFor(t, within, func() error {
		if now := l.accepted.Load() - was; now < n {
			return fmt.Errorf("%d of %d requests were accepted", now, n)
		}
		return nil
	})
}
