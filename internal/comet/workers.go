package comet

import (
	"context"
	"slices"
	"time"
)

// connectPatience is how long a session that connects or ends waits for others
// while logic is busy with some: little beside the way of a phone to its comet.
const connectPatience = 5 * time.Millisecond

// connectLoop asks logic about the sessions that want to be authenticated.
func (g *Gateway) connectLoop() {
	g.connects.serve(g.life, func(items []ConnectItem) { inCalls(items, (*ConnectItem).size, g.connect) })
}

// connect asks about those that have not waited for too long. When more come than
// logic can take, it would else be asked only about sessions whose handshake is
// over before they are answered, for as long as the storm lasts.
func (g *Gateway) connect(items []ConnectItem) {
	patient := g.nowMS() - millis(g.cfg.HandshakeTimeout)/2
	late := slices.IndexFunc(items, func(it ConnectItem) bool { return it.sinceMS >= patient }) // oldest first
	if late < 0 {
		late = len(items)
	}
	if late > 0 {
		g.answer(items[:late], unavailable(late, "too many wait"))
		items = items[late:]
	}
	if len(items) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(g.life, g.cfg.LogicTimeout)
	results, err := g.logic.Connect(ctx, g.node, items)
	if err != nil && ctx.Err() == nil {
		// The logic that was asked may have died; once more, of another one.
		results, err = g.logic.Connect(ctx, g.node, items)
	}
	cancel()
	if err == nil && len(results) != len(items) {
		g.log.Error("logic answered another number of sessions", "asked", len(items), "answered", len(results))
		results = nil
	}
	if err != nil {
		g.logicFailed("connect", err)
		results = nil
	}
	if results == nil {
		// Logic may have recorded them all the same; a location of a session that
		// is gone answers NotHere and expires.
		results = unavailable(len(items), "logic did not answer")
	}
	g.answer(items, results)
}

// unavailable tells n sessions to come back.
func unavailable(n int, reason string) []ConnectResult {
	results := make([]ConnectResult, n)
	for i := range results {
		results[i] = ConnectResult{Code: LogicUnavailable.Code(), Reason: reason}
	}
	return results
}

// answer brings results to the loops, one call per loop.
func (g *Gateway) answer(items []ConnectItem, results []ConnectResult) {
	type answer struct {
		id     uint64
		result ConnectResult
	}
	buckets := *g.buckets.Load()
	byLoop := make([][]answer, len(buckets))
	for i := range items {
		loop, _, _ := splitID(items[i].Session)
		byLoop[loop] = append(byLoop[loop], answer{items[i].Session, results[i]})
	}
	for loop, answers := range byLoop {
		if len(answers) == 0 {
			continue
		}
		buckets[loop].post(func(b *Bucket) {
			for _, a := range answers {
				b.protect(b.find(a.id), func() { b.connected(a.id, a.result) })
			}
		})
	}
}

// ended is a session whose location is to be removed.
type ended struct {
	SessionRef
	had uint64 // session of this node that had its key before and may need it again; 0 = none
}

// disconnectLoop tells logic of ended sessions. It tries again until logic
// answers or the comet ends: what is never told becomes void with the lease.
func (g *Gateway) disconnectLoop() { g.disconnects.serve(g.life, g.disconnect) }

func (g *Gateway) disconnect(sessions []ended) {
	refs := make([]SessionRef, len(sessions))
	for i := range sessions {
		refs[i] = sessions[i].SessionRef
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		ctx, cancel := context.WithTimeout(g.life, g.cfg.LogicTimeout)
		err := g.logic.Disconnect(ctx, g.node, refs)
		cancel()
		if err == nil {
			break
		}
		if g.life.Err() != nil {
			return
		}
		g.logicFailed("disconnect", err)
		select {
		case <-time.After(wait):
		case <-g.stopped:
		}
	}
	for i := range sessions {
		if had := sessions[i].had; had != 0 {
			g.postSession(had, func(b *Bucket, s *Session) { b.keyless = append(b.keyless, s.id) })
		}
	}
}

// shareInterval is how often logic is told how far pushes to all at a speed
// are, and asked which of them are canceled, while there are any.
const shareInterval = time.Second

// leaseLoop renews the lease, the locations of some sessions each time, and
// exchanges room counts and what is to be told of pushes to all.
func (g *Gateway) leaseLoop() {
	ticker := time.NewTicker(g.cfg.LeaseInterval)
	defer ticker.Stop()
	shares := time.NewTicker(min(g.cfg.LeaseInterval, shareInterval))
	defer shares.Stop()
	var roomsDue time.Time
	for {
		select {
		case <-ticker.C:
		case <-shares.C:
			if g.broadcasts.busy() {
				g.exchangeShares()
			}
			continue
		case <-g.leaving:
			return
		}
		ctx, cancel := context.WithTimeout(g.life, g.cfg.LogicTimeout)
		share := float64(g.cfg.LeaseInterval) / float64(g.cfg.RenewPeriod)
		refs, err := g.collect(ctx, share)
		var rooms map[string]int32
		if now := g.clock(); err == nil && !now.Before(roomsDue) {
			rooms = fullest(g.rooms.counts(), maxCountBytes)
			roomsDue = now.Add(g.cfg.OnlineInterval - g.cfg.LeaseInterval/2)
		}
		var reply RefreshReply
		first := min(len(refs), refsPerCall)
		if err == nil {
			reply, err = g.refreshWithShares(ctx, refs[:first], rooms)
		}
		cancel()
		if err == nil {
			err = g.report(g.life, refs[first:])
		}
		if err != nil {
			g.logicFailed("refresh", err)
			continue
		}
		g.rooms.setCluster(reply.Rooms)
		if g.unsynced.Load() {
			roomsDue = time.Time{}
			g.resync()
		}
	}
}

// exchangeShares is a renewal between two others, for the sake of pushes to all.
func (g *Gateway) exchangeShares() {
	ctx, cancel := context.WithTimeout(g.life, g.cfg.LogicTimeout)
	defer cancel()
	if _, err := g.refreshWithShares(ctx, nil, nil); err != nil {
		g.logicFailed("refresh", err)
	}
}

// refreshWithShares also exchanges what is to be told of pushes to all. Only
// one goroutine may do that at a time: an older report must not come behind a
// newer one.
func (g *Gateway) refreshWithShares(ctx context.Context, refs []SessionRef, rooms map[string]int32) (RefreshReply, error) {
	shares := g.broadcasts.report()
	reply, err := g.refresh(ctx, refs, rooms, shares)
	if err != nil {
		return reply, err
	}
	g.broadcasts.reported(shares)
	if g.broadcasts.setCanceled(reply.Canceled) {
		for _, b := range *g.buckets.Load() {
			b.post(func(b *Bucket) { b.cancelAlls() })
		}
	}
	return reply, nil
}

// maxCountBytes bounds the room counts of one call, which must stay below the
// size limit of a message, as the answer must.
const maxCountBytes = 8 << 20

// fullest leaves out the rooms with the fewest sessions, as far as the bound
// needs it.
func fullest(counts map[string]int32, maxBytes int) map[string]int32 {
	const fixed = 12 // tags, lengths and the count
	bytes := 0
	for key := range counts {
		bytes += len(key) + fixed
	}
	for least := int32(1); bytes > maxBytes && least > 0; least *= 2 {
		for key, n := range counts {
			if n <= least {
				delete(counts, key)
				bytes -= len(key) + fixed
			}
		}
	}
	return counts
}

// collect returns the share of the live sessions whose turn it is.
func (g *Gateway) collect(ctx context.Context, share float64) ([]SessionRef, error) {
	var refs []SessionRef
	for _, b := range *g.buckets.Load() {
		var some []SessionRef
		if err := b.call(ctx, func(b *Bucket) {
			some = b.renewals(int(float64(len(b.slots)-len(b.free))*share) + 1)
		}); err != nil {
			return nil, err
		}
		refs = append(refs, some...)
	}
	return refs, nil
}

// resync reports every session: the registry has lost this node's lease, so
// it may have lost the locations too. What fails here is tried again after the
// next renewal.
func (g *Gateway) resync() {
	g.unsynced.Store(false)
	ctx, cancel := context.WithTimeout(g.life, time.Minute)
	defer cancel()
	refs, err := g.collect(ctx, 1)
	if err != nil {
		g.unsynced.Store(true)
	}
	g.log.Warn("the lease was lost, or may have been: reporting all sessions again", "sessions", len(refs))
	if err == nil {
		err = g.report(ctx, refs)
	}
	if err != nil {
		g.logicFailed("resync", err)
	}
}

// refsPerCall bounds the sessions that one call renews: it must stay below the
// size limit of a message, and logic has a deadline for it.
const refsPerCall = 1000

// report renews sessions, and the lease with each call.
func (g *Gateway) report(ctx context.Context, refs []SessionRef) error {
	for len(refs) > 0 && !g.closing.Load() {
		n := min(len(refs), refsPerCall)
		call, cancel := context.WithTimeout(ctx, g.cfg.LogicTimeout)
		_, err := g.refresh(call, refs[:n], nil, nil)
		cancel()
		if err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

// logicFailed counts a failed call, unless the end of this comet cut it off.
func (g *Gateway) logicFailed(call string, err error) {
	if g.life.Err() == nil {
		g.stats.logicFailed(call, err)
	}
}

// announce renews the lease with what is to be known of this node now.
func (g *Gateway) announce(ctx context.Context) (RefreshReply, error) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.LogicTimeout)
	defer cancel()
	return g.refresh(ctx, nil, nil, nil)
}

func (g *Gateway) refresh(ctx context.Context, refs []SessionRef, rooms map[string]int32, shares []Share) (RefreshReply, error) {
	g.infoMu.Lock()
	info := g.info
	info.IPCount = int64(len(g.ips))
	g.infoMu.Unlock()
	info.ConnCount = int64(g.Sessions())
	info.Offline = info.Offline || g.draining.Load()
	reply, err := g.logic.Refresh(ctx, g.node, Refresh{Info: info, Sessions: refs, Rooms: rooms, Shares: shares})
	g.takeBackEnded(refs) // also of a call that failed: it may have been served
	// A call that failed may have taken a lost lease all the same: that it was
	// lost is then told to nobody any more.
	if err != nil || reply.Resync {
		g.unsynced.Store(true)
	}
	if err == nil {
		g.leasedMS.Store(g.nowMS())
	}
	return reply, err
}

// takeBackEnded tells logic once more of those of the renewed sessions that have
// ended since they were collected: the renewal may have come behind their
// Disconnect and have recorded them again, and then nobody would remove them.
// One that ends later is told of by its end, which comes behind the renewal.
func (g *Gateway) takeBackEnded(refs []SessionRef) {
	buckets := *g.buckets.Load()
	for len(refs) > 0 { // collected loop by loop
		loop, _, _ := splitID(refs[0].Session)
		n := slices.IndexFunc(refs, func(ref SessionRef) bool {
			other, _, _ := splitID(ref.Session)
			return other != loop
		})
		if n < 0 {
			n = len(refs)
		}
		ofLoop := refs[:n]
		refs = refs[n:]
		buckets[loop].post(func(b *Bucket) {
			for _, ref := range ofLoop {
				if b.find(ref.Session) == nil {
					g.disconnects.add(ended{SessionRef: ref})
				}
			}
		})
	}
}
