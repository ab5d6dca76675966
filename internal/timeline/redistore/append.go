package redistore

import (
	"context"
	"fmt"
	"slices"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/redisconn"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Bounds of one Script: nobody else is served while it runs.
const (
	maxTogether        = 64 // timelines
	maxTogetherRecords = 256
	maxTogetherBytes   = 1 << 20
)

// Append gives positions; see timeline.Window.
func (s *Store) Append(ctx context.Context, inc timeline.Incarnation, batch []timeline.WindowAppend) ([]timeline.WindowAppended, error) {
	if len(batch) == 0 {
		return nil, ctx.Err()
	}
	how, err := s.howKnown(ctx)
	if err != nil {
		return nil, err
	}
	values := valuesOf(batch)
	tokens, ok := s.tokens(inc)
	if !ok { // of another kind of store
		results := make([]timeline.WindowAppended, len(batch))
		for i := range results {
			results[i].Status = timeline.Rewind
		}
		return results, nil
	}
	var commands []redisconn.Command
	var parts [][]int
	for _, group := range s.groups(len(batch), func(i int) message.Timeline { return batch[i].Timeline }) {
		for len(group) > 0 {
			n, size, records := 0, 0, 0
			for n < len(group) && n < s.perScript && size < maxTogetherBytes && records < maxTogetherRecords {
				records += len(values[group[n]])
				for _, v := range values[group[n]] {
					size += len(v)
				}
				n++
			}
			commands = append(commands, s.appendCommand(how, tokens(batch[group[0]].Timeline), batch, values, group[:n]))
			parts = append(parts, group[:n])
			group = group[n:]
		}
	}
	replies, err := s.run(ctx, commands)
	if err != nil {
		return nil, fmt.Errorf("append to %d timelines: %w", len(batch), err)
	}
	results := make([]timeline.WindowAppended, len(batch))
	for i, reply := range replies {
		if err := appendResults(results, batch, parts[i], reply); err != nil {
			return nil, fmt.Errorf("append to %d timelines: %w", len(batch), err)
		}
	}
	return results, nil
}

// tokens tells what the scripts of a timeline compare with; ok is false for
// what no Incarnation of this store has said.
func (s *Store) tokens(inc timeline.Incarnation) (of func(message.Timeline) string, ok bool) {
	if s.cluster == nil {
		return func(message.Timeline) string { return string(inc) }, true
	}
	snap, ok := parseSnapshot(string(inc))
	return func(tl message.Timeline) string { return snap.token(slotOf(metaKey(tl))) }, ok
}

// groups are the timelines that may share a Script: all of them, or on a
// cluster those of one slot.
func (s *Store) groups(n int, of func(i int) message.Timeline) [][]int {
	if s.cluster == nil {
		all := make([]int, n)
		for i := range all {
			all[i] = i
		}
		return [][]int{all}
	}
	var groups [][]int
	at := map[int]int{}
	for i := range n {
		slot := slotOf(metaKey(of(i)))
		k, ok := at[slot]
		if !ok {
			k = len(groups)
			at[slot] = k
			groups = append(groups, nil)
		}
		groups[k] = append(groups[k], i)
	}
	return groups
}

// valuesOf encodes each record once, however many timelines it is for.
func valuesOf(batch []timeline.WindowAppend) [][][]byte {
	type record struct {
		at timeline.Offset
		m  *message.Message
	}
	encoded := map[record][]byte{}
	values := make([][][]byte, len(batch))
	for i := range batch {
		values[i] = make([][]byte, len(batch[i].Records))
		for j, r := range batch[i].Records {
			key := record{r.At, r.Message}
			v, ok := encoded[key]
			if !ok {
				v = encode(r.At, r.Message)
				encoded[key] = v
			}
			values[i][j] = v
		}
	}
	return values
}

func (s *Store) appendCommand(how, token string, batch []timeline.WindowAppend, values [][][]byte, part []int) redisconn.Command {
	c := redisconn.Command{Script: s.scripts.append, Args: []any{s.marker(), how, token, s.cfg.IdleTTL.Milliseconds(), timeline.MaxSeedAgeMS}}
	for _, i := range part {
		b := &batch[i]
		c.Keys = append(c.Keys, metaKey(b.Timeline), logKey(b.Timeline), ringKey(b.Timeline))
		seed, ring := "", []byte(nil)
		if b.Seed != nil {
			seed, ring = encodeSeed(b.Seed), encodeRing(b.Timeline, b.Seed)
		}
		c.Args = append(c.Args, int(b.Mode), b.Keep.Entries, b.Keep.Bytes, b.Keep.HardEntries, b.Keep.HardBytes,
			timeline.Recent(b.Timeline), seed, ring, len(b.Records))
		for j := range b.Records {
			r := &b.Records[j]
			c.Args = append(c.Args, r.At.Generation, r.At.Offset, r.Message.ID[:], values[i][j])
		}
	}
	return c
}

// appendResults reads what append.lua returned for a part of the batch.
func appendResults(results []timeline.WindowAppended, batch []timeline.WindowAppend, part []int, reply any) error {
	if word, ok := reply.([]byte); ok && string(word) == "REWIND" {
		for _, i := range part {
			results[i] = timeline.WindowAppended{Status: timeline.Rewind}
		}
		return nil
	}
	answers, err := redis.Values(reply, nil)
	if err != nil || len(answers) != len(part) {
		return fmt.Errorf("%w: %d of %d timelines", errReply, len(answers), len(part))
	}
	for k, i := range part {
		n, err := redis.Int64s(answers[k], nil)
		if err != nil || len(n) < 3 || len(n)%2 == 0 || (len(n)-3)/2 > len(batch[i].Records) {
			return fmt.Errorf("%w: %v", errReply, n)
		}
		result := timeline.WindowAppended{Epoch: uint32(n[1]), NowMS: n[2]}
		switch n[0] {
		case 0:
			result.Status = timeline.Applied
		case 2:
			result.Status = timeline.Reload
		case 3:
			result.Status = timeline.Full
		default:
			return fmt.Errorf("%w: status %d", errReply, n[0])
		}
		for v := n[3:]; len(v) > 0; v = v[2:] {
			result.Verdicts = append(result.Verdicts, timeline.Appended{
				Verdict:  timeline.Verdict(v[0]),
				Position: timeline.Position{Epoch: result.Epoch, Seq: uint64(v[1])},
				Mode:     batch[i].Mode,
			})
		}
		results[i] = result
	}
	return nil
}

// MarkArchived raises arch; see timeline.Window.
func (s *Store) MarkArchived(ctx context.Context, marks []timeline.Top) error {
	err := s.together(ctx, s.scripts.mark, len(marks), func(i int) message.Timeline { return marks[i].Timeline }, []any{s.cfg.IdleTTL.Milliseconds()}, func(c *redisconn.Command, i int) {
		tl := marks[i].Timeline
		c.Keys = append(c.Keys, metaKey(tl), logKey(tl), ringKey(tl))
		c.Args = append(c.Args, marks[i].Epoch, marks[i].Seq)
	}, nil)
	if err != nil {
		return fmt.Errorf("mark %d timelines archived: %w", len(marks), err)
	}
	return nil
}

// together runs a script for n timelines, some in each call. before goes ahead
// of their arguments. take gets the reply for each, if the script gives one.
func (s *Store) together(ctx context.Context, sc *redisconn.Script, n int, of func(i int) message.Timeline, before []any, add func(*redisconn.Command, int), take func(int, any) error) error {
	if n == 0 {
		return ctx.Err()
	}
	how, err := s.howKnown(ctx)
	if err != nil {
		return err
	}
	var commands []redisconn.Command
	var parts [][]int
	for _, group := range s.groups(n, of) {
		for part := range slices.Chunk(group, s.perScript) {
			c := redisconn.Command{Script: sc, Args: append([]any{s.marker(), how}, before...)}
			for _, i := range part {
				add(&c, i)
			}
			commands, parts = append(commands, c), append(parts, part)
		}
	}
	replies, err := s.run(ctx, commands)
	if err != nil || take == nil {
		return err
	}
	for k, reply := range replies {
		answers, err := redis.Values(reply, nil)
		if err != nil || len(answers) != len(parts[k]) {
			return fmt.Errorf("%w: %d of %d timelines", errReply, len(answers), len(parts[k]))
		}
		for j, i := range parts[k] {
			if err := take(i, answers[j]); err != nil {
				return err
			}
		}
	}
	return nil
}
