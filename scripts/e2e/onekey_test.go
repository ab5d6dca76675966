package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/testdeps"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/sqlstore"
	"github.com/perseid-im/perseid/pkg/wire"
)

// oneKey is a caller that repeats one request until it is accepted, from many
// goroutines at once.
type oneKey struct {
	hc       *http.Client
	bases    []string
	body     string
	accepted atomic.Int64
	failed   atomic.Int64 // attempts without an answer
	busy     atomic.Int64 // attempts that a logic had no room for

	mu  sync.Mutex
	ids map[string]int
}

func (o *oneKey) attempt(ctx context.Context, base, key string) (status int, answer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/push", strings.NewReader(o.body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	return do(o.hc, req)
}

// push is one of the repeats.
func (o *oneKey) push(ctx context.Context, key string, first int) error {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for try := first; ; try++ {
		status, answer, err := o.attempt(ctx, o.bases[try%len(o.bases)], key)
		var pushed struct {
			ID string `json:"msg_id"`
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			o.failed.Add(1)
		case status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests:
			o.busy.Add(1)
		case status != http.StatusAccepted || json.Unmarshal([]byte(answer), &pushed) != nil:
			return fmt.Errorf("%d %s", status, answer)
		default:
			o.accepted.Add(1)
			o.mu.Lock()
			o.ids[pushed.ID]++
			o.mu.Unlock()
			return nil
		}
		<-pause.C
	}
}

// A caller repeats one request with one Idempotency-Key 1,000 times at once,
// across two logics of which one is killed meanwhile: it is one message, with
// one id, in the inbox, in the room and at the client. What is pushed after it
// stands behind it, so nothing of it is still on its way.
func TestOneKeyIsOneMessageThoughALogicIsKilled(t *testing.T) {
	c := newCluster(t)
	dsn := testdeps.Database(testdeps.MariaDB(t))
	c.settings["logic"] = []string{"archive.dsn=" + dsn}
	logics := []*daemon{c.start("logic", "logic-1"), c.start("logic", "logic-2")}
	comet := c.start("comet", "comet-1")
	c.start("job", "job-1")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	box := make(inbox, 4096)
	cl, err := connect(ctx, comet.addrs["tcp"], `{"mid":42,"key":"k","room_id":"live://1","accepts":[1000,1001]}`, func(op wire.Op, body []byte) { box.push(op, body) })
	if err != nil {
		t.Fatal(err)
	}
	defer cl.close()
	o := &oneKey{
		hc: httpClient(t), bases: []string{"http://" + logics[0].addrs["http"], "http://" + logics[1].addrs["http"]}, ids: map[string]int{},
		body: `{"op":1000,"kind":"notice","store":true,"body":"once","targets":[{"mid":42},{"room":"live://1"}]}`,
	}
	const callers, before = 1000, 100
	failed := make(chan error, callers)
	for i := range callers / 2 {
		go func() { failed <- o.push(ctx, "the key", i) }()
	}
	waitFor(t, time.Minute, func() error {
		if n := o.accepted.Load(); n < before {
			return fmt.Errorf("%d accepted, %d without an answer, %d busy", n, o.failed.Load(), o.busy.Load())
		}
		return nil
	})
	if err := logics[0].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	atKill := o.accepted.Load()
	for i := range callers / 2 { // half of these begin at the logic that is dead
		go func() { failed <- o.push(ctx, "the key", i) }()
	}
	for range callers {
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
	if o.failed.Load() == 0 {
		t.Error("no attempt met the dead logic")
	}
	o.mu.Lock()
	if len(o.ids) != 1 {
		t.Errorf("the messages %v", o.ids)
	}
	o.mu.Unlock()

	// The same key with another body is refused with the name of the first.
	other := &oneKey{hc: o.hc, body: strings.Replace(o.body, "once", "other", 1)}
	if status, answer, err := other.attempt(ctx, o.bases[1], "the key"); err != nil || status != http.StatusConflict {
		t.Errorf("the key with another body: %d %s %v", status, answer, err)
	}
	last := &oneKey{hc: o.hc, bases: o.bases, ids: map[string]int{}, body: strings.NewReplacer("once", "last", "1000", "1001").Replace(o.body)}
	if err := last.push(ctx, "another key", 1); err != nil {
		t.Fatal(err)
	}
	archive, err := sqlstore.Open(ctx, archiveAt(dsn), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = archive.Close() }()
	for _, tl := range []message.Timeline{message.Inbox(42), "r:live://1"} {
		waitFor(t, time.Minute, func() error {
			entries, err := archive.Read(ctx, 0, timeline.ArchiveRead{Timeline: tl, To: 1 << 40, Entries: callers, Bytes: 1 << 24})
			if err != nil {
				return err
			}
			if len(entries) > 2 {
				t.Fatalf("%s: %d messages", tl, len(entries))
			}
			if len(entries) < 2 || entries[0].Seq != 1 || string(entries[0].Message.Body) != "once" || entries[1].Seq != 2 || string(entries[1].Message.Body) != "last" {
				return fmt.Errorf("%s: %d entries: %+v", tl, len(entries), entries)
			}
			if id := entries[0].Message.ID.String(); o.ids[id] != callers {
				t.Errorf("%s: %s is archived, the callers have %v", tl, id, o.ids)
			}
			return nil
		})
	}
	box.expectAll(t, "1000 once", "1000 once", "1001 last", "1001 last") // inbox and room
	box.expectNothing(t)
	t.Logf("1 message for %d accepted repeats: %d before the kill; %d attempts without an answer, %d without room", o.accepted.Load(), atKill, o.failed.Load(), o.busy.Load())
}
