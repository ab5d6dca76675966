package comet

import (
	"context"
	"errors"
)

// ask is one question of a session to logic. run is called by a worker; what
// it returns is run on the loop, if the session is still there.
type ask struct {
	session uint64
	sinceMS int64 // when it came, by Gateway.nowMS
	run     func(ctx context.Context) func(*Bucket, *Session)
}

// ask asks logic for a session. Its next packets wait for the answer: replies
// keep the order of the requests, and a session has one question under way.
// False means that too much waits already.
func (b *Bucket) ask(s *Session, run func(ctx context.Context) func(*Bucket, *Session)) bool {
	if !b.gateway.asks.add(ask{s.id, b.gateway.nowMS(), run}) {
		return false
	}
	b.await(s)
	return true
}

// await holds the next packets of a session back until answered is called.
func (b *Bucket) await(s *Session) {
	s.paused, s.asking = true, true
}

// answered lets them go on.
func (b *Bucket) answered(s *Session) {
	s.asking = false
	b.resume(s)
}

// tooLate tells whether what came at sinceMS has waited for a worker for as long
// as a call may take. It is refused without a call: its session waits, and reads
// no heartbeats, while those before it run into their deadlines.
func (g *Gateway) tooLate(sinceMS int64) bool {
	return g.nowMS()-sinceMS > millis(g.cfg.LogicTimeout)
}

// askLoop is a worker for the questions of sessions.
func (g *Gateway) askLoop() {
	g.asks.serve(g.life, func(asks []ask) {
		a := asks[0] // a batch is one
		timeout := g.cfg.LogicTimeout
		if g.tooLate(a.sinceMS) {
			timeout = 0
		}
		ctx, cancel := context.WithTimeout(g.life, timeout)
		answer := a.run(ctx)
		cancel()
		g.postSession(a.session, func(b *Bucket, s *Session) {
			answer(b, s)
			b.answered(s)
		})
	})
}

// postSession runs fn on the loop of a session, if the session is still there.
func (g *Gateway) postSession(id uint64, fn func(*Bucket, *Session)) {
	buckets := *g.buckets.Load()
	loop, _, _ := splitID(id)
	if int(loop) >= len(buckets) { // it was not this process that gave it out
		return
	}
	buckets[loop].post(func(b *Bucket) {
		if s := b.find(id); s != nil && s.state != closed {
			b.protect(s, func() { fn(b, s) })
		}
	})
}

// maxCallBytes bounds what sessions give to one call, which must stay below the
// size limit of a message: else a few of them could fail it for all.
const maxCallBytes = 4 << 20

// inCalls hands a batch to call in parts, each with one item or below the bound.
// Every string of a client counts: it may be as long as its packet.
func inCalls[T any](batch []T, size func(*T) int, call func([]T)) {
	for len(batch) > 0 {
		n, bytes := 1, size(&batch[0])
		for ; n < len(batch); n++ {
			if bytes += size(&batch[n]); bytes > maxCallBytes {
				break
			}
		}
		call(batch[:n])
		batch = batch[n:]
	}
}

// A cookie is made text, which may double it.
func (it *ConnectItem) size() int { return len(it.Token) + 2*len(it.Cookie) }

func (it *PublishItem) size() int { return len(it.To) + len(it.ClientID) + len(it.Payload) }

func (it *AckItem) size() (bytes int) {
	for i := range it.Acks {
		const numbers = 24
		bytes += len(it.Acks[i].Timeline) + numbers
	}
	return bytes
}

// publishLoop hands messages of sessions to logic, those that came together in
// one call.
func (g *Gateway) publishLoop() {
	g.publishes.serve(g.life, func(items []PublishItem) { inCalls(items, (*PublishItem).size, g.publish) })
}

func (g *Gateway) publish(items []PublishItem) {
	for len(items) > 0 && g.tooLate(items[0].sinceMS) { // the oldest
		g.answerPublish(&items[0], publishLater())
		items = items[1:]
	}
	if len(items) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(g.life, g.cfg.LogicTimeout)
	results, err := g.logic.Publish(ctx, g.node, items)
	cancel()
	if err == nil && len(results) != len(items) {
		err = errors.New("another number of results than of messages")
	}
	for i := range items {
		var result Published
		if err == nil {
			result = results[i]
		} else {
			no := refusalOf(err)
			result = Published{Code: no.Code, Reason: no.Reason}
		}
		g.answerPublish(&items[i], result)
	}
	if err != nil {
		g.askFailed("publish", err)
	}
}

func (g *Gateway) answerPublish(it *PublishItem, result Published) {
	g.postSession(it.Session, func(b *Bucket, s *Session) {
		b.published(s, it.ClientID, it.answer, result)
		b.answered(s)
	})
}

// publishLater refuses a message that has no room to wait, or waited for too long.
func publishLater() Published {
	return Published{Code: codeRetry, Reason: "too many messages wait, try again later"}
}

// ackLoop hands acks to logic. One that is lost costs a message that is
// delivered again, so a call that failed is not repeated.
func (g *Gateway) ackLoop() {
	g.acks.serve(g.life, func(items []AckItem) { inCalls(items, (*AckItem).size, g.ack) })
}

func (g *Gateway) ack(items []AckItem) {
	ctx, cancel := context.WithTimeout(g.life, g.cfg.LogicTimeout)
	results, err := g.logic.Ack(ctx, g.node, items)
	cancel()
	if err == nil && len(results) != len(items) {
		err = errors.New("another number of results than of acks")
	}
	if err != nil {
		g.askFailed("ack", err)
	}
	for i := range items {
		if !items[i].wanted {
			g.postSession(items[i].Session, (*Bucket).ackEnded)
			continue
		}
		var result Acked
		if err == nil {
			result = results[i]
		} else {
			no := refusalOf(err)
			result = Acked{Code: no.Code, Reason: no.Reason}
		}
		seq := items[i].answer
		g.postSession(items[i].Session, func(b *Bucket, s *Session) {
			b.acked(s, seq, result)
			b.ackEnded(s)
		})
	}
}
