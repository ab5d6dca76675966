package timelinetest

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// WindowSuite is what every timeline.Window must do. Each call of open gives
// an empty one, which the suite may lose.
func WindowSuite(t *testing.T, open func(t *testing.T) Losable) {
	t.Run("LikeMemory", func(t *testing.T) { likeMemory(t, open(t), 4000) })
	t.Run("OldSeed", func(t *testing.T) { oldSeed(t, open(t)) })
	t.Run("Bytes", func(t *testing.T) { bytesBound(t, open(t)) })
	t.Run("ManyTimelines", func(t *testing.T) { manyTimelines(t, open(t)) })
	t.Run("BigNumbers", func(t *testing.T) { bigNumbers(t, open(t)) })
	t.Run("WholeMessage", func(t *testing.T) { wholeMessage(t, open(t)) })
	t.Run("Names", func(t *testing.T) { oddNames(t, open(t)) })
}

// twins are the window under test and the one in memory, which get the same
// calls.
type twins struct {
	t     *testing.T
	ctx   context.Context
	r     *rand.Rand
	a     Losable
	b     *Window
	incA  timeline.Incarnation
	incB  timeline.Incarnation
	tls   []message.Timeline
	off   int64
	ids   uint64
	saved [][2]func()
	calls map[string]int
}

// likeMemory runs random calls on both and compares every answer.
func likeMemory(t *testing.T, w Losable, steps int) {
	d := &twins{t: t, ctx: t.Context(), r: rand.New(rand.NewPCG(3, 4)), a: w, b: NewWindow(), calls: map[string]int{}, //nolint:gosec // repeatable on purpose
		tls: []message.Timeline{"u:1", "u:2", "r:live://1", "r:{odd}://}x{"}}
	d.learn()
	for range steps {
		d.step()
		if t.Failed() {
			return
		}
	}
	for _, what := range []string{"applied", "rewind", "reload", "full", "new", "repeat", "repeat0", "dup", "page", "miss", "found", "moved"} {
		if d.calls[what] == 0 {
			t.Errorf("%s never came up: %v", what, d.calls)
		}
	}
	t.Log(d.calls)
}

func (d *twins) learn() {
	var errA, errB error
	d.incA, errA = d.a.Incarnation(d.ctx)
	d.incB, errB = d.b.Incarnation(d.ctx)
	if errA != nil || errB != nil {
		d.t.Fatal(errA, errB)
	}
}

func (d *twins) same(what string, a, b any, errA, errB error) {
	d.t.Helper()
	if errA != nil || errB != nil {
		d.t.Fatalf("%s: %v, %v", what, errA, errB)
	}
	if !reflect.DeepEqual(a, b) {
		d.t.Errorf("%s: %+v\nthe one in memory: %+v", what, a, b)
	}
}

func (d *twins) anyTimeline() message.Timeline { return d.tls[d.r.IntN(len(d.tls))] }

func (d *twins) step() {
	switch x := d.r.IntN(100); {
	case x < 45:
		d.append()
	case x < 55:
		d.mark()
	case x < 70:
		d.read()
	case x < 75:
		a, errA := d.a.Tops(d.ctx, d.tls)
		b, errB := d.b.Tops(d.ctx, d.tls)
		d.same("tops", a, b, errA, errB)
	case x < 80:
		d.find()
	case x < 83:
		d.editEpoch(func(tl message.Timeline, epoch uint32, top uint64) {
			seqs := []uint64{top, top - min(top, d.r.Uint64N(6)), top + 3}
			d.same("revoke", nil, nil, d.a.Revoke(d.ctx, tl, epoch, seqs), d.b.Revoke(d.ctx, tl, epoch, seqs))
		})
	case x < 85:
		d.editEpoch(func(tl message.Timeline, epoch uint32, top uint64) {
			floor := top - min(top, d.r.Uint64N(9))
			d.same("floor", nil, nil, d.a.RaiseFloor(d.ctx, tl, epoch, floor), d.b.RaiseFloor(d.ctx, tl, epoch, floor))
		})
	case x < 94:
		d.cursors()
	case x < 96:
		d.saved = append(d.saved, [2]func(){d.a.Save(), d.b.Save()})
	default:
		d.lose()
	}
}

func (d *twins) lose() {
	switch x := d.r.IntN(3); {
	case x == 0 && len(d.saved) > 0:
		back := d.saved[max(0, len(d.saved)-1-d.r.IntN(3))]
		back[0]()
		back[1]()
	case x == 1:
		d.a.Empty()
		d.b.Empty()
	default:
		d.a.Restart()
		d.b.Restart()
	}
	if d.r.IntN(3) > 0 { // else the next appends are asked under the old one
		d.learn()
	}
}

func (d *twins) id() message.ID {
	n := d.ids
	if n < 3 || d.r.IntN(6) > 0 {
		d.ids++
		n = d.ids
	} else {
		n -= d.r.Uint64N(min(n, 400))
	}
	return idOf(n)
}

// idOf is an id whose parts repeat within it and in others.
func idOf(n uint64) message.ID {
	id := message.ID{15: 9}
	binary.BigEndian.PutUint64(id[:], n*0x0101010101)
	return id
}

func (d *twins) append() {
	batch := make([]timeline.WindowAppend, 0, len(d.tls))
	for _, tl := range d.tls {
		if d.r.IntN(2) == 0 {
			continue
		}
		b := timeline.WindowAppend{
			Timeline: tl, Mode: timeline.Required, Keep: timeline.Keep{Entries: 5, HardEntries: 12, Bytes: 1 << 30, HardBytes: 1 << 30},
		}
		if tl == "r:live://1" {
			b.Mode = timeline.Off
		}
		if d.r.IntN(40) == 0 {
			b.Mode = timeline.Mode(d.r.IntN(3))
		}
		n := 1 + d.r.IntN(4)
		if d.r.IntN(60) == 0 {
			n = 400 // more than the ring holds
			b.Keep.HardEntries = 5000
		}
		for range n {
			at := timeline.Offset{Generation: 1, Offset: d.off}
			if d.r.IntN(5) == 0 {
				at.Offset = max(0, d.off-d.r.Int64N(12)) // again
			} else {
				d.off++
				at.Offset = d.off
			}
			b.Records = append(b.Records, timeline.Pending{At: at, Message: &message.Message{ID: d.id(), Kind: message.Chat, Body: []byte("b")}})
		}
		batch = append(batch, b)
	}
	resA, errA := d.a.Append(d.ctx, d.incA, batch)
	resB, errB := d.b.Append(d.ctx, d.incB, batch)
	d.same("append", d.count(resA), d.count(resB), errA, errB)
	d.seed(batch, resA, resB)
}

// seed answers those that asked for a reload, each by its own clock.
func (d *twins) seed(batch []timeline.WindowAppend, resA, resB []timeline.WindowAppended) {
	var againA, againB []timeline.WindowAppend
	for i := range batch {
		if resA[i].Status != timeline.Reload || d.r.IntN(4) == 0 {
			continue
		}
		seed := timeline.Seed{Epoch: 2 + d.r.Uint32N(3), Top: d.r.Uint64N(600)}
		if seed.Top > 0 {
			seed.Off = timeline.Offset{Generation: 1, Offset: max(0, d.off-d.r.Int64N(30))}
			seed.Floor = d.r.Uint64N(seed.Top)
			for seq := seed.Top - min(seed.Top, uint64(timeline.Recent(batch[i].Timeline))) + 1; seq <= seed.Top; seq++ {
				id := message.ID{15: 7}
				binary.BigEndian.PutUint64(id[:], seq)
				seed.IDs = append(seed.IDs, timeline.RecentID{ID: id, Seq: seq})
			}
		}
		seedA, seedB := seed, seed
		seedA.AskedMS, seedB.AskedMS = resA[i].NowMS, resB[i].NowMS
		a, b := batch[i], batch[i]
		a.Seed, b.Seed = &seedA, &seedB
		againA, againB = append(againA, a), append(againB, b)
	}
	gotA, errA := d.a.Append(d.ctx, d.incA, againA)
	gotB, errB := d.b.Append(d.ctx, d.incB, againB)
	if len(gotA)+len(gotB) > 0 {
		d.same("append with seeds", d.count(gotA), d.count(gotB), errA, errB)
	}
}

// count notes what came up and takes the clocks out.
func (d *twins) count(results []timeline.WindowAppended) []timeline.WindowAppended {
	results = append([]timeline.WindowAppended(nil), results...)
	for i := range results {
		results[i].NowMS = 0
		d.calls[[...]string{"applied", "rewind", "reload", "full"}[results[i].Status]]++
		for _, v := range results[i].Verdicts {
			what := [...]string{"", "new", "repeat", "dup"}[v.Verdict]
			if v.Seq == 0 {
				what += "0"
			}
			d.calls[what]++
		}
		if len(results[i].Verdicts) == 0 {
			results[i].Verdicts = nil
		}
		if results[i].Status == timeline.Reload || results[i].Status == timeline.Rewind {
			results[i].Epoch = 0
		}
	}
	return results
}

func (d *twins) mark() {
	tops, err := d.b.Tops(d.ctx, d.tls)
	if err != nil {
		d.t.Fatal(err)
	}
	var marks []timeline.Top
	for _, top := range tops {
		m := top.Top
		m.Seq += 2
		m.Seq -= min(m.Seq, d.r.Uint64N(8))
		m.Epoch += d.r.Uint32N(8) / 7
		marks = append(marks, m)
	}
	d.same("mark", nil, nil, d.a.MarkArchived(d.ctx, marks), d.b.MarkArchived(d.ctx, marks))
}

func (d *twins) read() {
	var asks []timeline.WindowRead
	tops, err := d.b.Tops(d.ctx, d.tls)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, top := range tops {
		from := top.Seq + 3
		from -= min(from, d.r.Uint64N(20))
		if d.r.IntN(20) == 0 {
			from = 1<<64 - 1 - d.r.Uint64N(2)
		}
		asks = append(asks, timeline.WindowRead{Timeline: top.Timeline, From: from, Entries: d.r.IntN(9), Bytes: 1 << 20})
	}
	a, errA := d.a.Read(d.ctx, asks)
	b, errB := d.b.Read(d.ctx, asks)
	for _, p := range b {
		if p.Miss {
			d.calls["miss"]++
		} else if len(p.Entries) > 0 {
			d.calls["page"]++
		}
	}
	d.same("read", a, b, errA, errB)
}

func (d *twins) find() {
	id, tl := idOf(d.ids-min(d.ids, d.r.Uint64N(20))), d.anyTimeline()
	atA, archA, okA, errA := d.a.Find(d.ctx, tl, id)
	atB, archB, okB, errB := d.b.Find(d.ctx, tl, id)
	if okB {
		d.calls["found"]++
	}
	d.same("find", fmt.Sprint(atA, archA, okA), fmt.Sprint(atB, archB, okB), errA, errB)
}

func (d *twins) editEpoch(f func(tl message.Timeline, epoch uint32, top uint64)) {
	tl := d.anyTimeline()
	tops, err := d.b.Tops(d.ctx, []message.Timeline{tl})
	if err != nil {
		d.t.Fatal(err)
	}
	f(tl, tops[0].Epoch+d.r.Uint32N(8)/7, tops[0].Seq)
}

func (d *twins) cursors() {
	mid := int64(1 + d.r.IntN(2))
	var to, seeds []timeline.UserCursor
	for _, tl := range d.tls {
		c := func() timeline.UserCursor {
			return timeline.UserCursor{Timeline: tl, Epoch: 1 + d.r.Uint32N(6)/5, Acked: d.r.Uint64N(50), Read: d.r.Uint64N(50)}
		}
		if d.r.IntN(3) > 0 {
			to = append(to, c())
		}
		if d.r.IntN(3) == 0 {
			seeds = append(seeds, c())
		}
	}
	if len(to) > 0 {
		a, errA := d.a.Advance(d.ctx, mid, to, seeds)
		b, errB := d.b.Advance(d.ctx, mid, to, seeds)
		for _, k := range b {
			if k.Moved {
				d.calls["moved"]++
			}
		}
		d.same("advance", a, b, errA, errB)
	}
	a, errA := d.a.Cursors(d.ctx, mid, d.tls)
	b, errB := d.b.Cursors(d.ctx, mid, d.tls)
	d.same("cursors", a, b, errA, errB)
}
