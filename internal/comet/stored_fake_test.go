package comet

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// library is Stored in memory: timelines whose pages are one entry long unless
// limit says otherwise.
type library struct {
	mu        sync.Mutex
	entries   map[message.Timeline][]timeline.Entry
	syncs     []SyncQuery
	histories []HistoryQuery
	acks      []AckItem
	published []PublishItem
	away      error
	hold      chan struct{}
	off       bool // nothing is stored
	most      int  // timelines in one call of Tops
}

func (l *library) add(tl message.Timeline, m message.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries == nil {
		l.entries = map[message.Timeline][]timeline.Entry{}
	}
	l.entries[tl] = append(l.entries[tl], timeline.Entry{Seq: uint64(len(l.entries[tl]) + 1), Message: m})
}

func (l *library) begin() (end func(), err error) {
	l.mu.Lock()
	if hold := l.hold; hold != nil {
		l.mu.Unlock()
		<-hold
		l.mu.Lock()
	}
	if l.off {
		return l.mu.Unlock, &Refused{Code: codeNotSupported, Reason: "not_supported"}
	}
	return l.mu.Unlock, l.away
}

func (l *library) page(tl message.Timeline, after uint64, limit timeline.Limit) Page {
	all := l.entries[tl]
	p := timeline.Page{Timeline: tl, Epoch: 1, Top: uint64(len(all)), Next: min(after, uint64(len(all)))}
	for _, e := range all[min(after, uint64(len(all))):] {
		if limit.Entries > 0 && len(p.Entries) == limit.Entries {
			p.HasMore = true
			break
		}
		p.Entries = append(p.Entries, e)
		p.Next = e.Seq
	}
	return Page{Page: p}
}

func (l *library) Sync(_ context.Context, _ Node, q SyncQuery) ([]Page, error) {
	end, err := l.begin()
	defer end()
	l.syncs = append(l.syncs, q)
	if err != nil {
		return nil, err
	}
	var pages []Page
	for _, c := range q.Cursors {
		if mid, inbox := c.Timeline.Mid(); inbox && mid != q.Mid {
			pages = append(pages, Page{Page: timeline.Page{Timeline: c.Timeline}, Code: 403, Reason: "no"})
			continue
		}
		pages = append(pages, l.page(c.Timeline, c.After, q.Limit))
	}
	return pages, nil
}

func (l *library) History(_ context.Context, _ Node, q HistoryQuery) (Page, error) {
	end, err := l.begin()
	defer end()
	l.histories = append(l.histories, q)
	return l.page(q.Part.Timeline, 0, q.Limit), err
}

func (l *library) Ack(_ context.Context, _ Node, items []AckItem) ([]Acked, error) {
	end, err := l.begin()
	defer end()
	l.acks = append(l.acks, items...)
	if err != nil {
		return nil, err
	}
	out := make([]Acked, len(items))
	for i, it := range items {
		for _, a := range it.Acks {
			out[i].Standings = append(out[i].Standings, timeline.Standing{UserCursor: timeline.UserCursor{Timeline: a.Timeline, Epoch: a.Epoch, Acked: a.After}})
		}
	}
	return out, nil
}

func (l *library) Read(_ context.Context, _ Node, _ Reader, at timeline.Cursor) (timeline.Standing, error) {
	end, err := l.begin()
	defer end()
	return timeline.Standing{UserCursor: timeline.UserCursor{Timeline: at.Timeline, Epoch: at.Epoch, Acked: at.After, Read: at.After}, Unread: 4}, err
}

func (l *library) Publish(_ context.Context, _ Node, items []PublishItem) ([]Published, error) {
	end, err := l.begin()
	defer end()
	if err != nil {
		return nil, err
	}
	out := make([]Published, len(items))
	for i, it := range items {
		l.published = append(l.published, it)
		if out[i].ID = message.DeriveID(fmt.Sprint(it.Mid), it.ClientID); it.To == "" {
			out[i] = Published{Code: 400, Reason: "to"}
		}
	}
	return out, nil
}

func (l *library) Tops(_ context.Context, tls []message.Timeline) (tops []timeline.Top, stored bool, err error) {
	end, err := l.begin()
	defer end()
	if l.off {
		return nil, false, nil
	}
	l.most = max(l.most, len(tls))
	for _, tl := range tls {
		if n := len(l.entries[tl]); n > 0 {
			tops = append(tops, timeline.Top{Timeline: tl, Position: timeline.Position{Epoch: 1, Seq: uint64(n)}})
		}
	}
	return tops, true, err
}

func (l *library) acked() []AckItem {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.acks)
}
