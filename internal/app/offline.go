package app

import (
	"context"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/offlinehttp"
)

// newOfflinePush is nil where no endpoint is configured.
func newOfflinePush(cfg LogicConfig, l *logicParts, p *process) (*logic.OfflinePush, error) {
	if !cfg.Offline.On() {
		return nil, nil
	}
	port, err := offlinehttp.New(cfg.Offline, nil, time.Now)
	if err != nil {
		return nil, err
	}
	return logic.NewOfflinePush(cfg.Offline.Send, logic.OfflineDeps{
		Port: port, Presence: l.presence, Timelines: &l.timelines.late, Logger: p.log, Metrics: p.metrics, Now: time.Now,
	})
}

// offlineStage stops before the timelines, which it asks, and after everything
// that brings messages.
func offlineStage(l *logicParts) stage {
	return stage{
		name: "offline push",
		start: func(ctx context.Context) error {
			if l.offline == nil {
				return nil
			}
			return l.offline.Start(ctx)
		},
		stop: func(ctx context.Context) error {
			if l.offline == nil {
				return nil
			}
			return l.offline.Close(ctx)
		},
		budget: 5 * time.Second,
	}
}
