package timelinetest

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

func wide() timeline.Keep {
	return timeline.Keep{Entries: 1000, HardEntries: 10_000, Bytes: 1 << 30, HardBytes: 1 << 30}
}

func pending(offset int64, n byte, body []byte) timeline.Pending {
	return timeline.Pending{At: timeline.Offset{Generation: 1, Offset: offset}, Message: &message.Message{ID: message.ID{0: n, 1: 1}, Body: body}}
}

// begin appends to a timeline that is not there yet: asked for a reload, it
// gives the seed.
func begin(ctx context.Context, t *testing.T, w timeline.Window, b timeline.WindowAppend, seed timeline.Seed) timeline.WindowAppended {
	t.Helper()
	inc, err := w.Incarnation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := appendOne(ctx, t, w, inc, b)
	if got.Status != timeline.Reload {
		t.Fatalf("a new timeline: %+v", got)
	}
	seed.AskedMS = got.NowMS
	b.Seed = &seed
	return appendOne(ctx, t, w, inc, b)
}

func appendOne(ctx context.Context, t *testing.T, w timeline.Window, inc timeline.Incarnation, b timeline.WindowAppend) timeline.WindowAppended {
	t.Helper()
	got, err := w.Append(ctx, inc, []timeline.WindowAppend{b})
	if err != nil {
		t.Fatal(err)
	}
	return got[0]
}

// A process that stopped between Reload and the seed must not undo what came
// between.
func oldSeed(t *testing.T, w Losable) {
	ctx := t.Context()
	inc, err := w.Incarnation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := timeline.WindowAppend{Timeline: "u:1", Mode: timeline.Required, Keep: wide(), Records: []timeline.Pending{pending(1, 1, nil)}}
	got := appendOne(ctx, t, w, inc, b)
	if got.Status != timeline.Reload || got.NowMS == 0 {
		t.Fatalf("%+v", got)
	}
	b.Seed = &timeline.Seed{Epoch: 1, AskedMS: got.NowMS - timeline.MaxSeedAgeMS - 1}
	if got = appendOne(ctx, t, w, inc, b); got.Status != timeline.Reload {
		t.Fatalf("a seed of %d ms: %+v", timeline.MaxSeedAgeMS+1, got)
	}
	b.Seed = &timeline.Seed{Epoch: 1, AskedMS: got.NowMS}
	if got = appendOne(ctx, t, w, inc, b); got.Status != timeline.Applied || got.Verdicts[0].Seq != 1 {
		t.Fatalf("%+v", got)
	}
	b.Seed = &timeline.Seed{Epoch: 7, Top: 99, AskedMS: b.Seed.AskedMS}
	b.Records = []timeline.Pending{pending(2, 2, nil)}
	if got = appendOne(ctx, t, w, inc, b); got.Epoch != 1 || got.Verdicts[0].Seq != 2 {
		t.Fatalf("a seed for a state that is there was taken: %+v", got)
	}
}

// The window is bounded by bytes, too; an empty one takes any message, and
// what is archived makes room.
func bytesBound(t *testing.T, w Losable) {
	ctx := t.Context()
	keep := timeline.Keep{Entries: 1000, HardEntries: 1000, Bytes: 30_000, HardBytes: 50_000}
	b := timeline.WindowAppend{Timeline: "u:1", Mode: timeline.Required, Keep: keep, Records: []timeline.Pending{pending(1, 1, make([]byte, 80_000))}}
	if got := begin(ctx, t, w, b, timeline.Seed{Epoch: 1}); got.Status != timeline.Applied || len(got.Verdicts) != 1 {
		t.Fatalf("the first message: %+v", got)
	}
	inc, err := w.Incarnation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.Records = nil
	for i := range int64(8) {
		b.Records = append(b.Records, pending(2+i, byte(2+i), make([]byte, 10_000)))
	}
	if got := appendOne(ctx, t, w, inc, b); got.Status != timeline.Full || len(got.Verdicts) != 0 {
		t.Fatalf("behind a large one: %+v", got)
	}
	mark(ctx, t, w, "u:1", 1)
	got := appendOne(ctx, t, w, inc, b)
	if got.Status != timeline.Full || len(got.Verdicts) != 4 {
		t.Fatalf("50,000 bytes hold four: %+v", got)
	}
	mark(ctx, t, w, "u:1", 4)
	b.Records = b.Records[4:]
	if got = appendOne(ctx, t, w, inc, b); got.Status != timeline.Full || len(got.Verdicts) != 3 {
		t.Fatalf("three more: %+v", got)
	}
	pages, err := w.Read(ctx, []timeline.WindowRead{{Timeline: "u:1", Entries: 10, Bytes: 25_000}})
	if err != nil || pages[0].First != 5 || len(pages[0].Entries) != 2 || pages[0].Seq != 8 {
		t.Fatalf("a page of 25,000 bytes: first %d, %d entries, %v", pages[0].First, len(pages[0].Entries), err)
	}
}

func mark(ctx context.Context, t *testing.T, w timeline.Window, tl message.Timeline, seq uint64) {
	t.Helper()
	if err := w.MarkArchived(ctx, []timeline.Top{{Timeline: tl, Position: timeline.Position{Epoch: 1, Seq: seq}}}); err != nil {
		t.Fatal(err)
	}
}

// A message for very many inboxes is one call.
func manyTimelines(t *testing.T, w Losable) {
	ctx := t.Context()
	inc, err := w.Incarnation(ctx)
	if err != nil {
		t.Fatal(err)
	}
	m := &message.Message{ID: message.ID{1}, Body: bytes.Repeat([]byte("x"), 2000)}
	var batch []timeline.WindowAppend
	var tls []message.Timeline
	for i := range 1000 {
		tls = append(tls, message.Inbox(int64(i+1)))
		batch = append(batch, timeline.WindowAppend{
			Timeline: tls[i], Mode: timeline.Off, Keep: wide(),
			Records: []timeline.Pending{{At: timeline.Offset{Generation: 1, Offset: 4}, Message: m}},
		})
	}
	for _, want := range []timeline.AppendStatus{timeline.Reload, timeline.Applied} {
		got, err := w.Append(ctx, inc, batch)
		if err != nil || len(got) != len(batch) {
			t.Fatal(len(got), err)
		}
		for i := range got {
			if got[i].Status != want {
				t.Fatalf("%s: %+v", tls[i], got[i])
			}
			batch[i].Seed = &timeline.Seed{Epoch: uint32(i + 2), AskedMS: got[i].NowMS}
		}
	}
	tops, err := w.Tops(ctx, tls)
	if err != nil {
		t.Fatal(err)
	}
	for i, top := range tops {
		if want := (timeline.Top{Timeline: tls[i], Position: timeline.Position{Epoch: uint32(i + 2), Seq: 1}}); top.Top != want {
			t.Fatalf("%+v, want %+v", top.Top, want)
		}
	}
}

// Offsets and positions beyond 10^14: a script that turns a number into text
// the wrong way writes 1e+15.
func bigNumbers(t *testing.T, w Losable) {
	ctx := t.Context()
	const top, off = 1_000_000_000_000_000, 2_000_000_000_000_000
	seed := timeline.Seed{Epoch: 4_000_000_000, Top: top, Off: timeline.Offset{Generation: 4_000_000_001, Offset: off}, Floor: top - 5}
	rec := func(o int64, n byte) timeline.Pending {
		p := pending(o, n, []byte("body"))
		p.At.Generation = 4_000_000_001
		return p
	}
	b := timeline.WindowAppend{Timeline: "r:live://1", Mode: timeline.BestEffort, Keep: wide(), Records: []timeline.Pending{rec(off, 1), rec(off+1, 2), rec(off+2, 3), rec(off+1, 2)}}
	got := begin(ctx, t, w, b, seed)
	want := []timeline.Appended{
		{Verdict: timeline.Repeat, Position: timeline.Position{Epoch: 4_000_000_000}, Mode: timeline.BestEffort},
		{Verdict: timeline.New, Position: timeline.Position{Epoch: 4_000_000_000, Seq: top + 1}, Mode: timeline.BestEffort},
		{Verdict: timeline.New, Position: timeline.Position{Epoch: 4_000_000_000, Seq: top + 2}, Mode: timeline.BestEffort},
		{Verdict: timeline.Repeat, Position: timeline.Position{Epoch: 4_000_000_000, Seq: top + 1}, Mode: timeline.BestEffort},
	}
	if !reflect.DeepEqual(got.Verdicts, want) {
		t.Fatalf("%+v", got)
	}
	pages, err := w.Read(ctx, []timeline.WindowRead{{Timeline: "r:live://1", From: top + 1, Entries: 5, Bytes: 1 << 20}})
	if err != nil || len(pages[0].Entries) != 1 || pages[0].Entries[0].Seq != top+2 || pages[0].Entries[0].At.Offset != off+2 || pages[0].Floor != top-5 {
		t.Fatalf("%+v, %v", pages, err)
	}
	known, err := w.Advance(ctx, 1, []timeline.UserCursor{{Timeline: "u:1", Epoch: 4_000_000_000, Acked: top, Read: top - 1}}, []timeline.UserCursor{{Timeline: "u:1"}})
	if err != nil || known[0].Acked != top || known[0].Read != top-1 || known[0].Epoch != 4_000_000_000 {
		t.Fatalf("%+v, %v", known, err)
	}
}

func wholeMessage(t *testing.T, w Losable) {
	ctx := t.Context()
	m := &message.Message{
		ID: message.ID{1, 2, 3, 32, 0, 13, 10, 255}, Op: -5, Flags: 0xfedcba98, Kind: message.Chat, Sender: -7, ClientID: "client 1",
		Operator: strings.Repeat("o", message.MaxAuditBytes), Source: "", AcceptedMS: 1_700_000_000_123, ExpiresMS: 1 << 50, Body: []byte{0, 255, 32, 10, 13, 0},
	}
	b := timeline.WindowAppend{Timeline: "u:1", Mode: timeline.Off, Keep: wide(), Records: []timeline.Pending{{At: timeline.Offset{Generation: 3, Offset: 9}, Message: m}}}
	begin(ctx, t, w, b, timeline.Seed{Epoch: 5})
	read := func() timeline.Entry {
		t.Helper()
		pages, err := w.Read(ctx, []timeline.WindowRead{{Timeline: "u:1", Entries: 1, Bytes: 1}})
		if err != nil || len(pages[0].Entries) != 1 {
			t.Fatalf("%+v, %v", pages, err)
		}
		return pages[0].Entries[0]
	}
	want := timeline.Entry{Seq: 1, At: timeline.Offset{Generation: 3, Offset: 9}, Message: *m}
	if got := read(); !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	if err := w.Revoke(ctx, "u:1", 5, []uint64{1}); err != nil {
		t.Fatal(err)
	}
	want.Gone, want.Message = timeline.Revoked, message.Message{ID: m.ID, Kind: m.Kind, AcceptedMS: m.AcceptedMS}
	if got := read(); !reflect.DeepEqual(got, want) {
		t.Fatalf("revoked: %+v, want %+v", got, want)
	}
}

func oddNames(t *testing.T, w Losable) {
	ctx := t.Context()
	names := []message.Timeline{"r:a://{b}", "r:a://{b}}", "r:a://}{", "r:a://b:meta", "r:a:// \r\n\x00é", message.AllTimeline}
	for i, tl := range names {
		b := timeline.WindowAppend{Timeline: tl, Mode: timeline.Off, Keep: wide(), Records: []timeline.Pending{pending(1, 1, []byte(fmt.Sprint(i)))}}
		if got := begin(ctx, t, w, b, timeline.Seed{Epoch: 2}); len(got.Verdicts) != 1 {
			t.Fatalf("%q: %+v", tl, got)
		}
	}
	for i, tl := range names {
		pages, err := w.Read(ctx, []timeline.WindowRead{{Timeline: tl, Entries: 9, Bytes: 100}})
		if err != nil || len(pages[0].Entries) != 1 || string(pages[0].Entries[0].Message.Body) != fmt.Sprint(i) {
			t.Fatalf("%q: %+v, %v", tl, pages, err)
		}
	}
}
