package job

import (
	"errors"
	"reflect"
	"testing"

	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

func at(v timeline.Verdict, epoch uint32, seq uint64, mode timeline.Mode) timeline.Appended {
	return timeline.Appended{Verdict: v, Position: timeline.Position{Epoch: epoch, Seq: seq}, Mode: mode}
}

func TestWhatIsHeld(t *testing.T) {
	r := &timeline.Record{Timelines: []message.Timeline{"u:1", "u:2"}}
	for name, c := range map[string]struct {
		appended   []timeline.Appended
		rows       int
		kept, held bool
	}{
		"new":                {[]timeline.Appended{at(timeline.New, 1, 1, timeline.Required), at(timeline.New, 1, 4, timeline.Required)}, 2, true, true},
		"one is a retry":     {[]timeline.Appended{at(timeline.Dup, 1, 1, timeline.Required), at(timeline.Repeat, 1, 4, timeline.Required)}, 1, true, true},
		"retry":              {[]timeline.Appended{at(timeline.Dup, 1, 1, timeline.Required), at(timeline.Dup, 1, 4, timeline.Required)}, 0, false, false},
		"archived long ago":  {[]timeline.Appended{at(timeline.Repeat, 1, 0, timeline.Required), at(timeline.Repeat, 1, 0, timeline.Required)}, 0, false, false},
		"nobody waits":       {[]timeline.Appended{at(timeline.New, 9, 1, timeline.BestEffort), at(timeline.New, 9, 1, timeline.Off)}, 1, true, false},
		"without an archive": {[]timeline.Appended{at(timeline.New, 9, 1, timeline.Off), at(timeline.New, 9, 1, timeline.Off)}, 0, false, false},
	} {
		k := newKept(&record{}, r, c.appended)
		if (k != nil) != c.kept || k != nil && (k.held() != c.held || len(k.places) != c.rows) {
			t.Errorf("%s: %+v", name, k)
		}
	}
}

func TestAReplayMayNotMoveWhatWasShown(t *testing.T) {
	r := &timeline.Record{Timelines: []message.Timeline{"u:1", "r:a://b"}, Message: message.Message{ID: message.ID{1}}}
	place := func(tl message.Timeline, epoch uint32, seq uint64) timeline.Place {
		return timeline.Place{Timeline: tl, Position: timeline.Position{Epoch: epoch, Seq: seq}, Mode: timeline.Required}
	}
	for name, c := range map[string]struct {
		again    []timeline.Appended
		places   []timeline.Place
		conflict bool
	}{
		"same":          {[]timeline.Appended{at(timeline.New, 1, 5, timeline.Required), at(timeline.New, 8, 1, timeline.BestEffort)}, []timeline.Place{place("u:1", 1, 5)}, false},
		"is archived":   {[]timeline.Appended{at(timeline.Repeat, 1, 0, timeline.Required), at(timeline.New, 8, 1, timeline.BestEffort)}, nil, false},
		"another epoch": {[]timeline.Appended{at(timeline.New, 2, 1, timeline.Required), at(timeline.New, 8, 1, timeline.BestEffort)}, []timeline.Place{place("u:1", 2, 1)}, false},
		"another seq":   {[]timeline.Appended{at(timeline.New, 1, 4, timeline.Required), at(timeline.New, 8, 1, timeline.BestEffort)}, nil, true},
		"no archive":    {[]timeline.Appended{at(timeline.New, 2, 4, timeline.Off), at(timeline.New, 8, 1, timeline.Off)}, nil, false},
	} {
		k := newKept(&record{}, r, []timeline.Appended{at(timeline.New, 1, 5, timeline.Required), at(timeline.New, 7, 9, timeline.BestEffort)})
		err := k.again(c.again)
		var conflict *timeline.Conflict
		if errors.As(err, &conflict) != c.conflict || err == nil && !reflect.DeepEqual(k.places, c.places) {
			t.Errorf("%s: %v, %+v", name, err, k.places)
		}
		if c.conflict && (conflict.Timeline != "u:1" || conflict.Seq != 5) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
