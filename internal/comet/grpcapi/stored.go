package grpcapi

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/pkg/wire"
)

// addPositions puts the positions of a stored message into a push. Its class
// is the normal one: what has an order is not overtaken.
func addPositions(push *comet.Push, i int, p *cometv1.Push) error {
	s := p.Stored
	if s == nil {
		return nil
	}
	bad := func(format string, args ...any) error {
		return status.Errorf(codes.InvalidArgument, "push %d of a batch: "+format, append([]any{i}, args...)...)
	}
	switch {
	case len(p.MsgId) != len(message.ID{}):
		return bad("stored, and msg_id has %d bytes: allowed is %d", len(p.MsgId), len(message.ID{}))
	case len(s.Places) == 0:
		return bad("stored without places")
	case len(s.PlaceOf) > 0 && len(s.PlaceOf) != len(p.Sessions):
		return bad("place_of has %d entries for %d sessions", len(s.PlaceOf), len(p.Sessions))
	}
	push.Class, push.Conflate = comet.Normal, ""
	push.Positions = make([]wire.Position, len(s.Places))
	for n, place := range s.Places {
		if len(place.GetTimeline()) > wire.MaxTimelineBytes || place.GetSeq() == 0 {
			return bad("place %d is %.300q, seq %d: allowed are %d bytes and a seq of 1 or more", n, place.GetTimeline(), place.GetSeq(), wire.MaxTimelineBytes)
		}
		push.Positions[n] = wire.Position{
			Seq: place.Seq, Epoch: place.Epoch, AcceptedMS: p.AcceptedMs, MsgID: [16]byte(p.MsgId), Timeline: place.Timeline, Sender: s.Sender,
		}
		if _, inbox := message.Timeline(place.Timeline).Mid(); inbox {
			push.Positions[n].Timeline = ""
		}
	}
	for _, of := range s.PlaceOf {
		if int(of) >= len(s.Places) {
			return bad("place_of names place %d of %d", of, len(s.Places))
		}
	}
	push.PositionOf = s.PlaceOf
	return nil
}
