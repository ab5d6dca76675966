package comettest

import (
	"context"

	"github.com/perseid-im/perseid/internal/comet"
	"github.com/perseid-im/perseid/internal/message"
	"github.com/perseid-im/perseid/internal/timeline"
)

// NothingStored is comet.Stored where nothing is stored.
type NothingStored struct{}

var _ comet.Stored = NothingStored{}

func no() error { return &comet.Refused{Code: 501, Reason: "not_supported"} }

// Sync implements comet.Stored.
func (NothingStored) Sync(context.Context, comet.Node, comet.SyncQuery) ([]comet.Page, error) {
	return nil, no()
}

// History implements comet.Stored.
func (NothingStored) History(context.Context, comet.Node, comet.HistoryQuery) (comet.Page, error) {
	return comet.Page{}, no()
}

// Ack implements comet.Stored.
func (NothingStored) Ack(context.Context, comet.Node, []comet.AckItem) ([]comet.Acked, error) {
	return nil, no()
}

// Read implements comet.Stored.
func (NothingStored) Read(context.Context, comet.Node, comet.Reader, timeline.Cursor) (timeline.Standing, error) {
	return timeline.Standing{}, no()
}

// Publish implements comet.Stored.
func (NothingStored) Publish(context.Context, comet.Node, []comet.PublishItem) ([]comet.Published, error) {
	return nil, no()
}

// Tops implements comet.Stored.
func (NothingStored) Tops(context.Context, []message.Timeline) ([]timeline.Top, bool, error) {
	return nil, false, nil
}
