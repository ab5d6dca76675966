package redistore

import (
	"context"
	"fmt"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// Bounds of one script: nobody else is served while it runs.
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
	var commands []command
	var sizes []int
	for from := 0; from < len(batch); {
		n, size, records := 0, 0, 0
		for from+n < len(batch) && n < s.perScript && size < maxTogetherBytes && records < maxTogetherRecords {
			records += len(values[from+n])
			for _, v := range values[from+n] {
				size += len(v)
			}
			n++
		}
		commands = append(commands, s.appendCommand(how, inc, batch[from:from+n], values[from:from+n]))
		sizes = append(sizes, n)
		from += n
	}
	replies, err := s.run(ctx, commands)
	if err != nil {
		return nil, fmt.Errorf("append to %d timelines: %w", len(batch), err)
	}
	results := make([]timeline.WindowAppended, 0, len(batch))
	for i, reply := range replies {
		part := batch[len(results) : len(results)+sizes[i]]
		if results, err = appendResults(results, part, reply); err != nil {
			return nil, fmt.Errorf("append to %d timelines: %w", len(batch), err)
		}
	}
	return results, nil
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

func (s *Store) appendCommand(how string, inc timeline.Incarnation, batch []timeline.WindowAppend, values [][][]byte) command {
	c := command{script: s.scripts.append, args: []any{markerKey, how, string(inc), s.cfg.IdleTTL.Milliseconds(), timeline.MaxSeedAgeMS}}
	for i := range batch {
		b := &batch[i]
		c.keys = append(c.keys, metaKey(b.Timeline), logKey(b.Timeline), ringKey(b.Timeline))
		seed, ring := "", []byte(nil)
		if b.Seed != nil {
			seed, ring = encodeSeed(b.Seed), encodeRing(b.Timeline, b.Seed)
		}
		c.args = append(c.args, int(b.Mode), b.Keep.Entries, b.Keep.Bytes, b.Keep.HardEntries, b.Keep.HardBytes,
			timeline.Recent(b.Timeline), seed, ring, len(b.Records))
		for j := range b.Records {
			r := &b.Records[j]
			c.args = append(c.args, r.At.Generation, r.At.Offset, r.Message.ID[:], values[i][j])
		}
	}
	return c
}

// appendResults reads what append.lua returned for batch.
func appendResults(results []timeline.WindowAppended, batch []timeline.WindowAppend, reply any) ([]timeline.WindowAppended, error) {
	if word, ok := reply.([]byte); ok && string(word) == "REWIND" {
		for range batch {
			results = append(results, timeline.WindowAppended{Status: timeline.Rewind})
		}
		return results, nil
	}
	parts, err := redis.Values(reply, nil)
	if err != nil || len(parts) != len(batch) {
		return nil, fmt.Errorf("%w: %d of %d timelines", errReply, len(parts), len(batch))
	}
	for i, part := range parts {
		n, err := redis.Int64s(part, nil)
		if err != nil || len(n) < 3 || len(n)%2 == 0 || (len(n)-3)/2 > len(batch[i].Records) {
			return nil, fmt.Errorf("%w: %v", errReply, n)
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
			return nil, fmt.Errorf("%w: status %d", errReply, n[0])
		}
		for v := n[3:]; len(v) > 0; v = v[2:] {
			result.Verdicts = append(result.Verdicts, timeline.Appended{
				Verdict:  timeline.Verdict(v[0]),
				Position: timeline.Position{Epoch: result.Epoch, Seq: uint64(v[1])},
				Mode:     batch[i].Mode,
			})
		}
		results = append(results, result)
	}
	return results, nil
}

// MarkArchived raises arch; see timeline.Window.
func (s *Store) MarkArchived(ctx context.Context, marks []timeline.Top) error {
	err := s.together(ctx, s.scripts.mark, len(marks), []any{s.cfg.IdleTTL.Milliseconds()}, func(c *command, i int) {
		tl := marks[i].Timeline
		c.keys = append(c.keys, metaKey(tl), logKey(tl), ringKey(tl))
		c.args = append(c.args, marks[i].Epoch, marks[i].Seq)
	}, nil)
	if err != nil {
		return fmt.Errorf("mark %d timelines archived: %w", len(marks), err)
	}
	return nil
}

// together runs a script for n timelines, some in each call. before goes ahead
// of their arguments. take gets the reply for each, if the script gives one.
func (s *Store) together(ctx context.Context, sc *script, n int, before []any, add func(*command, int), take func(int, any) error) error {
	if n == 0 {
		return ctx.Err()
	}
	how, err := s.howKnown(ctx)
	if err != nil {
		return err
	}
	var commands []command
	for i := range n {
		if i%s.perScript == 0 {
			commands = append(commands, command{script: sc, args: append([]any{markerKey, how}, before...)})
		}
		add(&commands[len(commands)-1], i)
	}
	replies, err := s.run(ctx, commands)
	if err != nil || take == nil {
		return err
	}
	i := 0
	for _, reply := range replies {
		parts, err := redis.Values(reply, nil)
		if err != nil {
			return fmt.Errorf("%w: %w", errReply, err)
		}
		for _, part := range parts {
			if i == n {
				return errReply
			}
			if err := take(i, part); err != nil {
				return err
			}
			i++
		}
	}
	if i != n {
		return fmt.Errorf("%w: %d of %d timelines", errReply, i, n)
	}
	return nil
}
