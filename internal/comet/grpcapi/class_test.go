package grpcapi

import (
	"testing"

	cometv1 "github.com/perseid-im/perseid/api/comet/v1"
	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
)

// The priority of the push API travels as flags; high goes before low.
func TestPriorityAndConflation(t *testing.T) {
	for flags, want := range map[message.Flags]comet.Class{
		0: comet.Normal, message.Store: comet.Normal, message.Low: comet.Low, message.Urgent: comet.High, message.Low | message.Urgent | message.Store: comet.High,
	} {
		pushes, err := pushesOf(&cometv1.Batch{Pushes: []*cometv1.Push{{Room: "a://b", Flags: uint32(flags), Conflate: "likes"}}})
		if err != nil || pushes[0].Class != want || pushes[0].Conflate != "likes" {
			t.Errorf("%b: %+v, %v", flags, pushes, err)
		}
	}
	d := &comet.Delivery{Results: []comet.PushResult{{Counts: comet.Counts{Conflated: 7}}}}
	if r := resultOf(d).Results[0]; r.Conflated != 7 {
		t.Errorf("%v", r)
	}
}
