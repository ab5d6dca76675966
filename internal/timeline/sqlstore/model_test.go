package sqlstore

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
	"github.com/perseid-im/perseid/internal/timeline/timelinetest"
)

// TestLikeTheModel does the same random calls to this archive and to the one
// in memory, whose code is plain, and compares every answer.
func TestLikeTheModel(t *testing.T) {
	t.Parallel()
	onBoth(t, func(t *testing.T, s *Store, _ string) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		p := &pair{t: t, sql: s, mem: timelinetest.NewArchive(), r: rand.New(rand.NewPCG(seed, 0)), next: map[message.Timeline]uint64{}}
		p.fence = fenced(t, s, 1)
		if f, err := p.mem.TakeFence(t.Context(), here, 1, nil); err != nil || f != p.fence {
			t.Fatal(f, err)
		}
		for i := 0; i < 1500 && !t.Failed(); i++ {
			p.step()
		}
	})
}

type pair struct {
	t     *testing.T
	sql   *Store
	mem   *timelinetest.Archive
	r     *rand.Rand
	fence timeline.Fence
	next  map[message.Timeline]uint64
}

var modelTimelines = []message.Timeline{"u:1", "u:2", "r:a://1", "r:a://2"}

func (p *pair) tl() message.Timeline { return modelTimelines[p.r.IntN(len(modelTimelines))] }
func (p *pair) mid() int64           { return int64(p.r.IntN(4)) }
func (p *pair) member() int64        { return int64(p.r.IntN(4)) + 1 }
func (p *pair) seq(tl message.Timeline) uint64 {
	return p.r.Uint64N(p.next[tl] + 3)
}

// same compares two answers; errors by what they are.
func (p *pair) same(what string, sql any, sqlErr error, mem any, memErr error) {
	p.t.Helper()
	for _, is := range []error{timeline.ErrStaleFence, timeline.ErrLogChanged, timeline.ErrConflict, timeline.ErrNotFound} {
		if errors.Is(sqlErr, is) != errors.Is(memErr, is) {
			p.t.Fatalf("%s: %v; in memory %v", what, sqlErr, memErr)
		}
	}
	if (sqlErr == nil) != (memErr == nil) {
		p.t.Fatalf("%s: %v; in memory %v", what, sqlErr, memErr)
	}
	if sqlErr == nil && !reflect.DeepEqual(sql, mem) {
		p.t.Fatalf("%s:\n%+v; in memory\n%+v", what, sql, mem)
	}
}

func (p *pair) step() {
	switch n := p.r.IntN(100); {
	case n < 35:
		p.write()
	case n < 60:
		p.read()
	case n < 80:
		p.user()
	case n < 92:
		p.members()
	default:
		p.fences()
	}
}

func (p *pair) write() {
	ctx := p.t.Context()
	var rows []timeline.Row
	for range p.r.IntN(3) + 1 {
		tl := p.tl()
		mode := timeline.Required
		if tl == "r:a://2" {
			mode = timeline.BestEffort
		}
		for range p.r.IntN(40) {
			seq := p.next[tl] + 1
			switch {
			case p.r.IntN(20) == 0 && seq > 3:
				seq -= p.r.Uint64N(3) + 1 // again
			case mode == timeline.BestEffort && p.r.IntN(10) == 0:
				seq += 2 // a hole
			}
			row := rowOf(tl, seq, mode)
			row.Message.Flags = message.Flags(p.r.Uint32N(64))
			row.Message.ExpiresMS = int64(p.r.IntN(3)) * 100
			if mode == timeline.BestEffort {
				row.Epoch = p.r.Uint32N(1 << 31)
			}
			p.next[tl] = max(p.next[tl], seq)
			rows = append(rows, row)
		}
	}
	// Alone: the model does not compare the rows of one batch with each other.
	if len(rows) > 0 && p.r.IntN(8) == 0 {
		rows = rows[:1]
		rows[0].Message.ID[0]++
	}
	sql, sqlErr := p.sql.Write(ctx, here, p.fence, rows)
	mem, memErr := p.mem.Write(ctx, here, p.fence, rows)
	p.same("write", sql, sqlErr, mem, memErr)
	if memErr != nil { // nothing was written: what follows goes on above what stands
		for _, tl := range modelTimelines {
			all := p.mem.Rows(tl)
			p.next[tl] = 0
			if len(all) > 0 {
				p.next[tl] = all[len(all)-1].Seq
			}
		}
	}
}

func (p *pair) read() {
	ctx, tl, mid := p.t.Context(), p.tl(), p.mid()
	from := p.seq(tl)
	ask := timeline.ArchiveRead{
		Timeline: tl, From: from, To: from + p.r.Uint64N(60), Entries: p.r.IntN(20), Bytes: p.r.IntN(3000), Backwards: p.r.IntN(2) == 0,
	}
	tops, sqlErr := p.sql.Tops(ctx, modelTimelines)
	memTops, memErr := p.mem.Tops(ctx, modelTimelines)
	p.same("tops", tops, sqlErr, memTops, memErr)
	ask.From = max(ask.From, tops[slices.Index(modelTimelines, tl)].Floor)
	entries, sqlErr := p.sql.Read(ctx, mid, ask)
	memEntries, memErr := p.mem.Read(ctx, mid, ask)
	p.same(fmt.Sprintf("read %+v", ask), entries, sqlErr, memEntries, memErr)
	n, sqlErr := p.sql.CountUnread(ctx, mid, tl, ask.From, ask.To, 100)
	memN, memErr := p.mem.CountUnread(ctx, mid, tl, ask.From, ask.To, 100)
	p.same("count unread", n, sqlErr, memN, memErr)
	id := rowOf(tl, p.seq(tl), 0).Message.ID
	found, sqlErr := p.sql.Find(ctx, tl, id)
	memFound, memErr := p.mem.Find(ctx, tl, id)
	p.same("find", found, sqlErr, memFound, memErr)
	tls := modelTimelines[:p.r.IntN(len(modelTimelines))]
	seeds, sqlErr := p.sql.Load(ctx, here, p.fence, tls)
	memSeeds, memErr := p.mem.Load(ctx, here, p.fence, tls)
	p.same("load", seeds, sqlErr, memSeeds, memErr)
}

func (p *pair) user() {
	ctx, tl, mid := p.t.Context(), p.tl(), p.member()
	switch p.r.IntN(7) {
	case 0:
		cursors := map[int64][]timeline.UserCursor{}
		for range p.r.IntN(4) {
			mid := p.member()
			cursors[mid] = append(cursors[mid], timeline.UserCursor{Timeline: p.tl(), Epoch: p.r.Uint32N(2) + 1, Acked: p.r.Uint64N(50), Read: p.r.Uint64N(50)})
		}
		// The same timeline twice: which epoch is the last is up to the order.
		for mid, list := range cursors {
			slices.SortFunc(list, func(a, b timeline.UserCursor) int { return slices.Compare([]byte(a.Timeline), []byte(b.Timeline)) })
			cursors[mid] = slices.CompactFunc(list, func(a, b timeline.UserCursor) bool { return a.Timeline == b.Timeline })
		}
		p.same("save cursors", nil, p.sql.SaveCursors(ctx, cursors), nil, p.mem.SaveCursors(ctx, cursors))
	case 1:
		seqs := []uint64{p.seq(tl), p.seq(tl), p.seq(tl)}
		p.same("hide", nil, p.sql.Hide(ctx, mid, tl, seqs), nil, p.mem.Hide(ctx, mid, tl, seqs))
	case 2:
		// Above the floor: what is below it is nobody's business any more.
		seq := p.seq(tl)
		p.same("revoke", nil, p.sql.Revoke(ctx, tl, seq, mid, 5), nil, p.mem.Revoke(ctx, tl, seq, mid, 5))
	case 3:
		upTo := p.seq(tl) / 4
		p.same("clear", nil, p.sql.Clear(ctx, mid, tl, upTo), nil, p.mem.Clear(ctx, mid, tl, upTo))
	case 4:
		floor := p.seq(tl) / 2
		var rounds [2]int
		for i, a := range []timeline.Archive{p.sql, p.mem} {
			for more, err := true, error(nil); more; rounds[i]++ {
				if more, err = a.Retain(ctx, tl, floor); err != nil {
					p.t.Fatal(err)
				}
			}
		}
	}
	var asks []timeline.ViewAsk
	for _, tl := range modelTimelines {
		from := p.seq(tl)
		asks = append(asks, timeline.ViewAsk{Timeline: tl, From: from, To: from + 20})
	}
	views, sqlErr := p.sql.Views(ctx, mid, asks)
	memViews, memErr := p.mem.Views(ctx, mid, asks)
	tops, err := p.mem.Tops(ctx, modelTimelines)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range asks { // hidden positions go with the rows
		gone := func(seq uint64) bool { return seq <= tops[i].Floor }
		views[i].Hidden = slices.DeleteFunc(views[i].Hidden, gone)
		memViews[i].Hidden = slices.DeleteFunc(memViews[i].Hidden, gone)
		if len(views[i].Hidden)+len(memViews[i].Hidden) == 0 {
			views[i].Hidden, memViews[i].Hidden = nil, nil
		}
	}
	p.same("views", views, sqlErr, memViews, memErr)
	cursors, sqlErr := p.sql.Cursors(ctx, mid, modelTimelines)
	memCursors, memErr := p.mem.Cursors(ctx, mid, modelTimelines)
	p.same("cursors", cursors, sqlErr, memCursors, memErr)
	span, sqlErr := p.sql.Range(ctx, mid, tl)
	memSpan, memErr := p.mem.Range(ctx, mid, tl)
	p.same("range", span, sqlErr, memSpan, memErr)
}

func (p *pair) members() {
	ctx, tl, mid := p.t.Context(), modelTimelines[2+p.r.IntN(2)], p.member()
	if p.r.IntN(2) == 0 {
		// Without history: with it, the model takes who only cleared for one who left.
		list := []timeline.Member{{Mid: mid, Role: timeline.Role(p.r.IntN(3)), JoinedSeq: p.seq(tl)}, {Mid: p.member() + 4, JoinedSeq: 2}}
		p.same("join", nil, p.sql.Join(ctx, tl, list, false, 7), nil, p.mem.Join(ctx, tl, list, false, 7))
	} else {
		mids, top := []int64{mid, p.member() + 4}, p.seq(tl)
		p.same("leave", nil, p.sql.Leave(ctx, tl, mids, top), nil, p.mem.Leave(ctx, tl, mids, top))
	}
	m, sqlErr := p.sql.Member(ctx, tl, mid)
	memM, memErr := p.mem.Member(ctx, tl, mid)
	p.same("member", m, sqlErr, memM, memErr)
	members, sqlErr := p.sql.Members(ctx, tl, mid, 3)
	memMembers, memErr := p.mem.Members(ctx, tl, mid, 3)
	p.same("members", members, sqlErr, memMembers, memErr)
	after := []message.Timeline{"", "r:a://1", "r:b://"}[p.r.IntN(3)]
	rooms, sqlErr := p.sql.Rooms(ctx, mid, after, 3)
	memRooms, memErr := p.mem.Rooms(ctx, mid, after, 3)
	if len(rooms)+len(memRooms) == 0 {
		rooms, memRooms = nil, nil
	}
	p.same("rooms", rooms, sqlErr, memRooms, memErr)
}

func (p *pair) fences() {
	ctx := p.t.Context()
	at := here
	switch p.r.IntN(12) {
	case 0:
		at.Log = "pushes/other"
	case 1:
		at.Generation--
	}
	owner := p.fence.Owner + p.r.Uint64N(3) - 1
	var over *timeline.Fence
	if p.r.IntN(2) == 0 {
		over = &timeline.Fence{Owner: p.fence.Owner, Rewinds: p.fence.Rewinds - p.r.Uint64N(2)}
	}
	if p.r.IntN(2) == 0 {
		f := timeline.Fence{Owner: owner, Rewinds: p.fence.Rewinds}
		sql, sqlErr := p.sql.RaiseFence(ctx, at, f)
		mem, memErr := p.mem.RaiseFence(ctx, at, f)
		p.same("raise", sql, sqlErr, mem, memErr)
		if memErr == nil {
			p.fence = mem
		}
		return
	}
	sql, sqlErr := p.sql.TakeFence(ctx, at, owner, over)
	mem, memErr := p.mem.TakeFence(ctx, at, owner, over)
	p.same("take", sql, sqlErr, mem, memErr)
	var a, b *timeline.StaleFence
	if errors.As(sqlErr, &a) && errors.As(memErr, &b) && *a != *b {
		p.t.Fatalf("stands: %+v; in memory %+v", a, b)
	}
	if memErr == nil {
		p.fence = mem
	}
}
