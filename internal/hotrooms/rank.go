package hotrooms

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// flush counts the rooms in which somebody spoke. What could not be counted
// waits for the next time.
func (t *Tracker) flush(ctx context.Context) error {
	t.mu.Lock()
	pending := t.pending
	t.pending, t.waiting = map[string]map[int64]time.Time{}, 0
	t.mu.Unlock()

	batch := make([]string, 0, batchRooms)
	for room := range pending {
		if batch = append(batch, room); len(batch) < batchRooms && len(batch) < len(pending) {
			continue
		}
		if _, err := t.recount(ctx, t.spoken(batch, pending)); err != nil {
			t.putBack(pending)
			return fmt.Errorf("count %d rooms: %w", len(pending), err)
		}
		for _, done := range batch {
			delete(pending, done)
		}
		batch = batch[:0]
	}
	return nil
}

// spoken asks for rooms; one with many speakers comes several times.
func (t *Tracker) spoken(rooms []string, pending map[string]map[int64]time.Time) []Spoken {
	now := t.now()
	list := make([]Spoken, 0, len(rooms))
	for _, room := range rooms {
		speakers := make([]Speaker, 0, len(pending[room]))
		for mid, at := range pending[room] {
			speakers = append(speakers, Speaker{mid, max(now.Sub(at), 0)})
		}
		for part := range slices.Chunk(speakers, batchSpeakers) {
			list = append(list, Spoken{room, part})
		}
	}
	return list
}

// putBack keeps what was not counted, as far as there is room beside what was
// noted meanwhile.
func (t *Tracker) putBack(pending map[string]map[int64]time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for room, speakers := range pending {
		for mid, at := range speakers {
			if !t.note(room, mid, at) {
				t.notes.Inc(noteFull)
			}
		}
	}
}

// recount counts rooms again and writes what they have now. A room that comes
// several times, one after the other, is answered once.
func (t *Tracker) recount(ctx context.Context, spoken []Spoken) ([]Room, error) {
	if len(spoken) == 0 {
		return nil, nil
	}
	counts, err := t.store.Recount(ctx, spoken, t.cfg.Window, t.cfg.MaxSpeakers)
	if err == nil && len(counts) != len(spoken) {
		err = fmt.Errorf("%d counts", len(counts))
	}
	if err != nil {
		return nil, fmt.Errorf("recount %d rooms: %w", len(spoken), err)
	}
	ranked := make([]Ranked, 0, len(spoken))
	for i, c := range counts {
		if i+1 < len(spoken) && spoken[i+1].Room == spoken[i].Room {
			continue // the last count has them all
		}
		again := min(quietAgain, t.cfg.Window)
		if c.Speakers > 0 {
			again = max(c.Next, time.Millisecond)
		}
		ranked = append(ranked, Ranked{Room{spoken[i].Room, c.Speakers}, again})
	}
	if err := t.store.Rank(ctx, ranked, t.cfg.Window); err != nil {
		return nil, fmt.Errorf("rank %d rooms: %w", len(ranked), err)
	}
	rooms := make([]Room, len(ranked))
	for i := range ranked {
		rooms[i] = ranked[i].Room
	}
	return rooms, nil
}

// build makes the ranking for everybody, unless another one does.
func (t *Tracker) build(ctx context.Context) error {
	// A little less than the interval: who holds it now may be next.
	mine, err := t.store.Hold(ctx, t.cfg.Interval*9/10)
	if err != nil {
		return fmt.Errorf("hold the ranking: %w", err)
	}
	if !mine {
		return nil
	}
	if err := t.sweep(ctx); err != nil {
		return err
	}
	// Twice as many: what is written may be too high, and is counted now.
	names, err := t.store.Highest(ctx, 2*t.cfg.Rooms)
	if err != nil {
		return fmt.Errorf("highest rooms: %w", err)
	}
	var rooms []Room
	for part := range slices.Chunk(names, batchRooms) {
		counted, err := t.recount(ctx, unheard(part))
		if err != nil {
			return err
		}
		rooms = append(rooms, counted...)
	}
	rooms = slices.DeleteFunc(rooms, func(r Room) bool { return r.Speakers == 0 })
	slices.SortFunc(rooms, func(a, b Room) int {
		return cmp.Or(cmp.Compare(b.Speakers, a.Speakers), cmp.Compare(a.Name, b.Name))
	})
	r := Ranking{BuiltMS: t.now().UnixMilli(), Rooms: rooms[:min(len(rooms), t.cfg.Rooms)]}
	if err := t.store.Publish(ctx, r, t.cfg.Window); err != nil {
		return fmt.Errorf("publish the ranking: %w", err)
	}
	return nil
}

// sweep counts the rooms of which a speaker has become too old.
func (t *Tracker) sweep(ctx context.Context) error {
	for range sweepTurns {
		names, err := t.store.Due(ctx, sweepRooms, min(quietAgain, t.cfg.Window))
		if err != nil {
			return fmt.Errorf("due rooms: %w", err)
		}
		for part := range slices.Chunk(names, batchRooms) {
			if _, err := t.recount(ctx, unheard(part)); err != nil {
				return err
			}
		}
		if len(names) < sweepRooms {
			return nil
		}
	}
	return nil // the rest is next time's
}

func unheard(names []string) []Spoken {
	spoken := make([]Spoken, len(names))
	for i, name := range names {
		spoken[i].Room = name
	}
	return spoken
}

// read takes the ranking that somebody built; none changes nothing.
func (t *Tracker) read(ctx context.Context) error {
	r, err := t.store.Published(ctx)
	if err != nil {
		return fmt.Errorf("read the ranking: %w", err)
	}
	if r.BuiltMS > 0 {
		t.ranking.Store(&r)
	}
	return nil
}
