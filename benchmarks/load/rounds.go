package load

import (
	"math"
	"time"
)

// drain reads some of the connections that are not in epoll, at the pace of
// one round per Config.Drain. It says whether it is behind.
func (l *loop) drain(now int64) bool {
	due := l.bulk.due(now, l.cfg.Drain)
	for range min(due, roundChunk) {
		ci, wrapped := l.bulk.next()
		if wrapped {
			l.drainMax = max(l.drainMax, time.Duration(now-l.bulk.began))
			l.bulk.began = now
		}
		if c := &l.conns[ci]; c.state == stateReady {
			l.read(c, int(ci), 0)
		}
	}
	return due > roundChunk
}

// readSlow lets slow readers have their bytes.
func (l *loop) readSlow(now int64) {
	due := l.slow.due(now, slowTick)
	for range due {
		ci, _ := l.slow.next()
		c := &l.conns[ci]
		if c.state != stateReady {
			continue
		}
		perTick := float64(l.cfg.Classes[c.class].BytesPerSecond) * slowTick.Seconds()
		l.read(c, int(ci), max(1, int(perTick)))
	}
}

// heartbeat sends one to every connection in turn.
func (l *loop) heartbeat(now int64) {
	if l.cfg.Heartbeat <= 0 {
		return
	}
	due := l.beatRounds.due(now, l.cfg.Heartbeat)
	for range min(due, dialChunk) {
		ci, _ := l.beatRounds.next()
		c := &l.conns[ci]
		if c.state != stateReady {
			continue
		}
		if l.out == nil {
			l.out = appendHeartbeat(nil)
			if l.cfg.WebSocket {
				l.out = appendMasked(nil, 2, l.out)
			}
		}
		if n, errno := writeFD(c.fd, l.out); errno == 0 && n == len(l.out) {
			l.beats++
		} else if n > 0 && errno == 0 {
			l.lost(c, "a heartbeat was cut")
		}
	}
}

// plan puts the connections into the lists that are gone round.
func (l *loop) plan() {
	l.bulk.list, l.slow.list, l.beatRounds.list = nil, nil, nil
	for i := range l.conns {
		switch l.conns[i].mode {
		case readBulk:
			l.bulk.list = append(l.bulk.list, int32(i))
		case readSlowly:
			l.slow.list = append(l.slow.list, int32(i))
		}
		l.beatRounds.list = append(l.beatRounds.list, int32(i))
	}
}

// tally closes the account of a step: what was published and did not come is
// lost, and every connection is set to expect what follows.
func (l *loop) tally(expected []Expect) {
	s := l.cfg.Streams
	l.account, l.eat.inStep = expected, false
	l.eat.begun = math.MaxInt64 // what comes until the next Begin is late
	for ci := range l.conns {
		c := &l.conns[ci]
		st := &l.eat.classes[c.class]
		open := c.state == stateReady
		if !open && c.state != stateClosed {
			c.missing, c.gaps = 0, nil
			continue // never there, or on its way again
		}
		missing, heard, silent := int64(c.missing), false, false
		for i := range expected {
			e := &expected[i]
			if e.Class != int(c.class) {
				continue
			}
			count := e.of(c)
			at := &l.eat.next[ci*s+e.Stream]
			switch {
			case *at == unknownSeq:
				silent = true
			case *at < count:
				missing += int64(count - *at)
				heard = true
			default:
				heard = true
			}
			*at = count
		}
		c.missing, c.gaps = 0, nil
		if silent && !heard && open && c.mode != readNever {
			st.Silent++
		}
		if missing <= 0 {
			continue
		}
		if open {
			st.Lost += uint64(missing)
		} else {
			st.LostCut += uint64(missing)
		}
	}
}

// of is the next number that connection c would have got.
func (e *Expect) of(c *conn) uint32 {
	i := 0
	switch e.By {
	case ByRoom:
		i = int(c.room)
	case ByConn:
		i = int(c.number)
	}
	if i < 0 || i >= len(e.Counts) {
		return 0
	}
	return e.Counts[i]
}
