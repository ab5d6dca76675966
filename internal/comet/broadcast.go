package comet

import (
	"slices"
	"sync"

	"github.com/perseid-im/perseid/internal/message"
)

// Share is how far this comet is with a push to all at a speed.
type Share struct {
	ID        message.ID
	Comets    uint32 // that share the push, as the job said
	Speed     uint32 // of this share, sessions per second
	StartedMS int64  // Unix ms; 0 = it waits for those before it
	Finished  bool
	Total     uint32 // sessions; as of the begin while it is not finished
	Delivered uint32
	Filtered  uint32
	Slow      uint32
	Canceled  uint32
}

// maxShares bounds what is remembered and reported at a time. Pushes beyond it
// are delivered, and may be canceled; their progress is not told.
const maxShares = 256

// broadcasts is what logic and this comet tell each other about pushes to all
// at a speed. Loops count into it, the lease loop reads it; it is safe for
// concurrent use.
type broadcasts struct {
	mu       sync.Mutex
	shares   map[message.ID]*runningShare
	canceled map[message.ID]struct{}
}

type runningShare struct {
	Share
	loops int // that have the push and are not done with it
}

func newBroadcasts() *broadcasts {
	return &broadcasts{shares: map[message.ID]*runningShare{}}
}

// tracked tells whether logic keeps the progress of a push.
func (p *Push) tracked() bool { return p.All && p.Speed > 0 && p.ID != message.ID{} }

// expect says that loops will get a push. It must be called for all of them
// before the first can be done with it, or the share would seem finished.
func (s *broadcasts) expect(p *Push, loops int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shares[p.ID]
	if sh == nil {
		if len(s.shares) >= maxShares {
			return
		}
		sh = &runningShare{Share: Share{ID: p.ID, Comets: p.Comets, Speed: p.Speed}}
		s.shares[p.ID] = sh
	}
	sh.loops += loops
}

// forgo says that loops will not get their batches after all.
func (s *broadcasts) forgo(pushes []Push, batches []bucketBatch) {
	for _, batch := range batches {
		for _, u := range batch.units {
			if p := &pushes[u.push]; p.tracked() {
				s.progress(p.ID, func(sh *runningShare) { sh.loops-- })
			}
		}
	}
}

// progress changes a share, if it is known.
func (s *broadcasts) progress(id message.ID, change func(*runningShare)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.shares[id]; sh != nil {
		change(sh)
	}
}

func (s *broadcasts) isCanceled(id message.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, canceled := s.canceled[id]
	return canceled
}

// setCanceled takes the whole list of logic, and tells whether it has new ones.
func (s *broadcasts) setCanceled(ids []message.ID) (more bool) {
	next := make(map[message.ID]struct{}, len(ids))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		next[id] = struct{}{}
		if _, known := s.canceled[id]; !known {
			more = true
		}
	}
	s.canceled = next
	return more
}

// busy tells whether there is something to report.
func (s *broadcasts) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.shares) > 0
}

// report is all there is to tell.
func (s *broadcasts) report() []Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Share, 0, len(s.shares))
	for _, sh := range s.shares {
		sh.Finished = sh.loops <= 0
		list = append(list, sh.Share)
	}
	slices.SortFunc(list, func(a, b Share) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return list
}

// reported forgets what logic knows to be finished.
func (s *broadcasts) reported(list []Share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range list {
		sh := s.shares[list[i].ID]
		if sh != nil && list[i].Finished && sh.loops <= 0 {
			delete(s.shares, sh.ID)
		}
	}
}
