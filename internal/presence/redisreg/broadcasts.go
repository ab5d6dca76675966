package redisreg

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/gomodule/redigo/redis"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/presence"
	"github.com/perseid-im/perseid/internal/redisconn"
)

var _ presence.Broadcasts = (*Registry)(nil)

// Fields of broadcast:<id>; those of the shares are <node>/<incarnation>,
// which neither of these can be.
const (
	speedField    = "speed"
	canceledField = "canceled"
)

func broadcastKey(id message.ID) string { return "broadcast:" + id.String() }

// Announce makes a broadcast known; see presence.Broadcasts.
func (r *Registry) Announce(ctx context.Context, id message.ID, speed int32) error {
	nowMS := r.clock.nowMS()
	commands := append(r.keep(id, nowMS, speedField, strconv.FormatInt(int64(speed), 10)), r.forgetOld(nowMS)...)
	replies, err := r.run(ctx, commands)
	if err == nil {
		err = r.forgetMany(ctx, replies[len(replies)-1])
	}
	if err != nil {
		return fmt.Errorf("announce broadcast %v: %w", id, err)
	}
	return nil
}

// Report keeps the shares of a node; see presence.Broadcasts.
func (r *Registry) Report(ctx context.Context, node presence.Node, shares []presence.Share) ([]message.ID, error) {
	canceled, err := r.report(ctx, node, shares)
	if err != nil {
		return nil, fmt.Errorf("report %d shares of %s: %w", len(shares), node.Name, err)
	}
	return canceled, nil
}

func (r *Registry) report(ctx context.Context, node presence.Node, shares []presence.Share) ([]message.ID, error) {
	nowMS := r.clock.nowMS()
	commands := []redisconn.Command{{Name: "ZRANGEBYSCORE", Args: []any{canceledKey, nowMS - r.cfg.BroadcastTTL.Milliseconds(), "+inf"}}}
	field := node.Name + "/" + decimal(node.Incarnation)
	for i := range shares {
		commands = append(commands, r.keep(shares[i].ID, nowMS, field, encodeShare(&shares[i], nowMS))...)
	}
	if len(shares) > 0 {
		commands = append(commands, r.forgetOld(nowMS)...)
	}
	replies, err := r.run(ctx, commands)
	if err != nil {
		return nil, err
	}
	if len(shares) > 0 {
		if err := r.forgetMany(ctx, replies[len(replies)-1]); err != nil {
			return nil, err
		}
	}
	return parseIDs(replies[0])
}

// Cancel makes every Report name the broadcast; see presence.Broadcasts.
func (r *Registry) Cancel(ctx context.Context, id message.ID) error {
	nowMS := r.clock.nowMS()
	ttlMS := r.cfg.BroadcastTTL.Milliseconds()
	key := broadcastKey(id)
	_, err := r.run(ctx, []redisconn.Command{
		// What the comets read is first: without it the rest means nothing.
		{Name: "ZADD", Args: []any{canceledKey, "NX", nowMS, id.String()}},
		{Name: "HSETNX", Args: []any{key, canceledField, nowMS}},
		{Name: "PEXPIRE", Args: []any{key, ttlMS}},
		{Name: "ZREMRANGEBYSCORE", Args: []any{canceledKey, "-inf", nowMS - ttlMS}},
		{Name: "ZREMRANGEBYRANK", Args: []any{canceledKey, 0, -r.cfg.MaxBroadcasts - 1}},
	})
	if err != nil {
		return fmt.Errorf("cancel broadcast %v: %w", id, err)
	}
	return nil
}

// Broadcast returns what is known about one; see presence.Broadcasts.
func (r *Registry) Broadcast(ctx context.Context, id message.ID) (presence.Broadcast, bool, error) {
	replies, err := r.run(ctx, []redisconn.Command{{Name: "HGETALL", Args: []any{broadcastKey(id)}}})
	if err != nil {
		return presence.Broadcast{}, false, fmt.Errorf("broadcast %v: %w", id, err)
	}
	b, ok, err := decodeBroadcast(id, replies[0])
	if err != nil {
		return presence.Broadcast{}, false, fmt.Errorf("broadcast %v: %w", id, err)
	}
	return b, ok, nil
}

// Broadcasts returns all that are kept; see presence.Broadcasts.
func (r *Registry) Broadcasts(ctx context.Context) ([]presence.Broadcast, error) {
	all, err := r.readBroadcasts(ctx)
	if err != nil {
		return nil, fmt.Errorf("broadcasts: %w", err)
	}
	return all, nil
}

func (r *Registry) readBroadcasts(ctx context.Context) ([]presence.Broadcast, error) {
	replies, err := r.run(ctx, []redisconn.Command{{Name: "ZREVRANGE", Args: []any{broadcastsKey, 0, r.cfg.MaxBroadcasts - 1}}})
	if err != nil {
		return nil, err
	}
	ids, err := parseIDs(replies[0])
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ids, func(a, b message.ID) int { return bytes.Compare(a[:], b[:]) })
	commands := make([]redisconn.Command, len(ids))
	for i, id := range ids {
		commands[i] = redisconn.Command{Name: "HGETALL", Args: []any{broadcastKey(id)}}
	}
	if replies, err = r.runSome(ctx, commands); err != nil {
		return nil, err
	}
	all := make([]presence.Broadcast, 0, len(ids))
	for i, id := range ids {
		b, ok, err := decodeBroadcast(id, replies[i])
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, b)
		}
	}
	return all, nil
}

// keep writes a field of a broadcast and says that it was heard of.
func (r *Registry) keep(id message.ID, nowMS int64, field, value string) []redisconn.Command {
	key := broadcastKey(id)
	return []redisconn.Command{
		{Name: "HSET", Args: []any{key, field, value}},
		{Name: "PEXPIRE", Args: []any{key, r.cfg.BroadcastTTL.Milliseconds()}},
		{Name: "ZADD", Args: []any{broadcastsKey, nowMS, id.String()}},
	}
}

// forgetOld drops what has expired from the index; the last reply is what
// forgetMany wants.
func (r *Registry) forgetOld(nowMS int64) []redisconn.Command {
	return []redisconn.Command{
		{Name: "ZREMRANGEBYSCORE", Args: []any{broadcastsKey, "-inf", nowMS - r.cfg.BroadcastTTL.Milliseconds()}},
		{Name: "ZCARD", Args: []any{broadcastsKey}},
	}
}

// forgetMany deletes those that nothing was heard of for the longest time
// when there are too many: count is the reply to ZCARD. Two callers at a time
// may delete a few more than they need to.
func (r *Registry) forgetMany(ctx context.Context, count any) error {
	n, err := redis.Int(count, nil)
	if err != nil || n <= r.cfg.MaxBroadcasts {
		return err
	}
	replies, err := r.run(ctx, []redisconn.Command{{Name: "ZPOPMIN", Args: []any{broadcastsKey, n - r.cfg.MaxBroadcasts}}})
	if err != nil {
		return err
	}
	popped, err := redis.ByteSlices(replies[0], nil)
	if err != nil {
		return err
	}
	var commands []redisconn.Command
	for i := 0; i < len(popped); i += 2 { // id, score, ...
		if id, ok := message.ParseID(string(popped[i])); ok {
			commands = append(commands, redisconn.Command{Name: "DEL", Args: []any{broadcastKey(id)}})
		}
	}
	_, err = r.runSome(ctx, commands)
	return err
}

// encodeShare is comets|speed|started|finished|total|delivered|filtered|slow|canceled|updated.
func encodeShare(s *presence.Share, nowMS int64) string {
	finished := uint64(0)
	if s.Finished {
		finished = 1
	}
	b := make([]byte, 0, 80)
	for i, n := range [...]uint64{
		uint64(s.Comets), uint64(s.Speed), uint64(max(s.StartedMS, 0)), finished, uint64(s.Total),
		uint64(s.Delivered), uint64(s.Filtered), uint64(s.Slow), uint64(s.Canceled), uint64(nowMS),
	} {
		if i > 0 {
			b = append(b, '|')
		}
		b = strconv.AppendUint(b, n, 10)
	}
	return string(b)
}

// decodeBroadcast reads the reply to HGETALL; an empty one is none. A share
// that cannot be read is left out: a newer version wrote it.
func decodeBroadcast(id message.ID, reply any) (presence.Broadcast, bool, error) {
	fields, err := redis.ByteSlices(reply, nil)
	if err != nil || len(fields)%2 != 0 {
		return presence.Broadcast{}, false, errReply
	}
	b := presence.Broadcast{ID: id}
	for i := 0; i < len(fields); i += 2 {
		name, value := string(fields[i]), fields[i+1]
		switch name {
		case speedField:
			n, _ := strconv.ParseInt(string(value), 10, 32)
			b.Speed = int32(n)
		case canceledField:
			b.CanceledMS, _ = strconv.ParseInt(string(value), 10, 64)
		default:
			if s, ok := decodeShare(fields[i], value); ok {
				s.ID = id
				b.Shares = append(b.Shares, s)
			}
		}
	}
	return b, len(fields) > 0, nil
}

func decodeShare(field, value []byte) (s presence.Share, ok bool) {
	slash := bytes.LastIndexByte(field, '/')
	if slash < 1 {
		return s, false
	}
	incarnation, ok := parseUint(field[slash+1:])
	if !ok {
		return s, false
	}
	var n [10]uint64
	parts := bytes.Split(value, []byte{'|'})
	if len(parts) < len(n) {
		return s, false
	}
	for i := range n {
		if n[i], ok = parseUint(parts[i]); !ok {
			return s, false
		}
	}
	return presence.Share{
		Node:   presence.Node{Name: string(field[:slash]), Incarnation: incarnation},
		Comets: uint32(n[0]), Speed: uint32(n[1]), StartedMS: int64(n[2]), Finished: n[3] != 0, Total: uint32(n[4]),
		Delivered: uint32(n[5]), Filtered: uint32(n[6]), Slow: uint32(n[7]), Canceled: uint32(n[8]), UpdatedMS: int64(n[9]),
	}, true
}

func parseIDs(reply any) ([]message.ID, error) {
	texts, err := redis.ByteSlices(reply, nil)
	if err != nil {
		return nil, errReply
	}
	ids := make([]message.ID, 0, len(texts))
	for _, text := range texts {
		if id, ok := message.ParseID(string(text)); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// nowMS is Redis's clock as far as it was read, else this machine's. It only
// decides what is forgotten first.
func (c *serverClock) nowMS() int64 {
	if last := c.last.Load(); last != nil {
		return time.Since(c.born).Milliseconds() + last.offsetMS
	}
	return time.Now().UnixMilli()
}
