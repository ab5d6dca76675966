package comet

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// weighingLogic notes the size of calls, in bytes.
type weighingLogic struct {
	*testLogic
	mu    sync.Mutex
	items int
	most  int
}

func (l *weighingLogic) weigh(items, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items += items
	l.most = max(l.most, bytes)
}

func (l *weighingLogic) Connect(_ context.Context, _ Node, items []ConnectItem) ([]ConnectResult, error) {
	bytes := 0
	for _, it := range items {
		bytes += len(it.Token) + len(strings.ToValidUTF8(it.Cookie, "\uFFFD"))
	}
	l.weigh(len(items), bytes)
	return make([]ConnectResult, len(items)), nil
}

func (l *weighingLogic) Publish(_ context.Context, _ Node, items []PublishItem) ([]Published, error) {
	bytes := 0
	for _, it := range items {
		bytes += len(it.To) + len(it.ClientID) + len(it.Payload)
	}
	l.weigh(len(items), bytes)
	return make([]Published, len(items)), nil
}

func (l *weighingLogic) Ack(_ context.Context, _ Node, items []AckItem) ([]Acked, error) {
	bytes := 0
	for _, it := range items {
		for _, a := range it.Acks {
			bytes += len(a.Timeline)
		}
	}
	l.weigh(len(items), bytes)
	return make([]Acked, len(items)), nil
}

// Symptom: a few clients with bodies that made no sense failed the messages and
// the acks of everybody who was in the same call. Cause: the call was larger than
// a message between daemons may be (16 MiB): of messages
// the payload counted, of acks and auths nothing. A string of a client may be as
// long as its packet, and longer where its bytes are no text.
func TestCallsAreBoundedInBytes(t *testing.T) {
	long := strings.Repeat("\uFFFD", 64<<10)
	payload := []byte(long)
	for name, add := range map[string]func(*Gateway) bool{
		"cookie": func(g *Gateway) bool {
			return g.connects.add(ConnectItem{Token: make([]byte, 4<<10), Cookie: strings.Repeat("a\xff", 4<<10)})
		},
		"to":            func(g *Gateway) bool { return g.publishes.add(PublishItem{To: long}) },
		"client_msg_id": func(g *Gateway) bool { return g.publishes.add(PublishItem{ClientID: long}) },
		"payload":       func(g *Gateway) bool { return g.publishes.add(PublishItem{Payload: payload}) },
		"tl": func(g *Gateway) bool {
			return g.acks.add(AckItem{Acks: []timeline.Cursor{{Timeline: message.Timeline(long)}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 1, func(c *Config) { c.ConnectBatch = 1024 })
			logic := &weighingLogic{testLogic: f.logic}
			f.g.logic = logic // before there is something to do: the workers sleep
			const items = 1024
			for range items {
				if !add(f.g) {
					t.Fatal("not taken")
				}
			}
			waitFor(t, "the calls", func() bool {
				logic.mu.Lock()
				defer logic.mu.Unlock()
				return logic.items == items
			})
			if logic.most > 4<<20 {
				t.Errorf("a call with %d bytes", logic.most)
			}
		})
	}
}
