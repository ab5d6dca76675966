package cometclient

import (
	"google.golang.org/grpc"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/job"
	"github.com/perseid-im/perseid/internal/message"
)

// dispatchStream is an open lane.
type dispatchStream struct {
	link    *link
	stream  grpc.BidiStreamingClient[cometv1.DispatchRequest, cometv1.DispatchReply]
	results []job.Result // of the last Recv
}

// Send sends one batch.
func (s *dispatchStream) Send(pushes []job.Push) error {
	// gRPC forbids to reuse a message after SendMsg, so each batch has its own
	// memory: one block per kind, whatever the number of pushes.
	block := make([]cometv1.Push, len(pushes))
	list := make([]*cometv1.Push, len(pushes))
	ids := make([]byte, 0, len(pushes)*len(message.ID{}))
	for i := range pushes {
		in, out := &pushes[i], &block[i]
		out.Partition = in.Partition
		out.Offset = in.Offset
		out.Op = in.Message.Op
		out.Body = in.Message.Body
		out.Flags = uint32(in.Message.Flags)
		out.AcceptedMs = in.Message.AcceptedMS
		out.Sessions = in.Sessions
		out.Room = in.Room
		out.Conflate = in.Message.Conflate
		out.All = in.All
		out.Speed = in.Speed
		out.Comets = in.Comets
		if in.Message.ID != (message.ID{}) { // a goim logic gives no ids
			n := len(ids)
			ids = append(ids, in.Message.ID[:]...)
			out.MsgId = ids[n:len(ids):len(ids)]
		}
		if len(in.Places) > 0 {
			out.Stored = stored(in)
		}
		list[i] = out
	}
	err := s.stream.Send(&cometv1.DispatchRequest{
		Kind: &cometv1.DispatchRequest_Batch{Batch: &cometv1.Batch{Pushes: list}},
	})
	if err != nil {
		return s.link.wrap("dispatch", err)
	}
	return nil
}

// stored says which positions a message has for whom.
func stored(in *job.Push) *cometv1.Stored {
	out := &cometv1.Stored{Sender: in.Message.Sender, PlaceOf: in.PlaceOf, Places: make([]*cometv1.Place, len(in.Places))}
	block := make([]cometv1.Place, len(in.Places))
	for i := range in.Places {
		p := &block[i]
		p.Timeline, p.Epoch, p.Seq = string(in.Places[i].Timeline), in.Places[i].Epoch, in.Places[i].Seq
		out.Places[i] = p
	}
	return out
}

// Recv returns the answer to the oldest unanswered batch.
func (s *dispatchStream) Recv() ([]job.Result, error) {
	reply, err := s.stream.Recv()
	if err != nil {
		return nil, s.link.wrap("dispatch", err)
	}
	s.results = s.results[:0]
	for _, r := range reply.GetResult().GetResults() {
		s.results = append(s.results, result(r))
	}
	return s.results, nil
}

// result counts per session where the comet says so, else it takes the sums.
func result(r *cometv1.PushResult) job.Result {
	if r.GetRepeat() {
		return job.Result{Repeat: true}
	}
	var out job.Result
	if len(r.GetSessions()) == 0 {
		out.Counts[job.Delivered] = uint64(r.GetDelivered())
		out.Counts[job.NotHere] = uint64(r.GetNotHere())
		out.Counts[job.Filtered] = uint64(r.GetFiltered())
		out.Counts[job.Slow] = uint64(r.GetSlow())
		out.Counts[job.Canceled] = uint64(r.GetCanceled())
		out.Counts[job.Conflated] = uint64(r.GetConflated())
		return out
	}
	for _, o := range r.GetSessions() {
		out.Counts[outcome(o)]++
	}
	return out
}

// outcome of a session. What a newer comet says in a word that is not known
// here counts as no answer.
func outcome(o cometv1.Outcome) job.Outcome {
	switch o {
	case cometv1.Outcome_DELIVERED:
		return job.Delivered
	case cometv1.Outcome_NOT_HERE:
		return job.NotHere
	case cometv1.Outcome_FILTERED:
		return job.Filtered
	case cometv1.Outcome_SLOW:
		return job.Slow
	case cometv1.Outcome_REPEAT:
		return job.Repeat
	case cometv1.Outcome_DRAINING:
		return job.Draining
	}
	return job.Unreachable
}

// roomStream is an open room index.
type roomStream struct {
	link   *link
	stream grpc.BidiStreamingClient[cometv1.RoomsAck, cometv1.RoomsUpdate]
}

// Recv returns the next change.
func (s *roomStream) Recv() (job.RoomChange, error) {
	u, err := s.stream.Recv()
	if err != nil {
		return job.RoomChange{}, s.link.wrap("rooms", err)
	}
	if err := s.link.same(u.GetNode(), u.GetIncarnation()); err != nil {
		return job.RoomChange{}, s.link.wrap("rooms", err)
	}
	return job.RoomChange{
		Version:     u.GetVersion(),
		Snapshot:    u.GetSnapshot(),
		SnapshotEnd: u.GetSnapshotEnd(),
		Added:       u.GetAdded(),
		Removed:     u.GetRemoved(),
	}, nil
}

// Ack tells the comet that a change is in force.
func (s *roomStream) Ack(version uint64) error {
	if err := s.stream.Send(&cometv1.RoomsAck{Version: version}); err != nil {
		return s.link.wrap("rooms", err)
	}
	return nil
}
