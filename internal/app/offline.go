package app

import (
	"context"
	"time"

	"github.com/perseid-im/perseid/internal/logic"
	"github.com/perseid-im/perseid/internal/logic/callback"
)

// newOfflinePush is nil where no endpoint is configured.
func newOfflinePush(cfg LogicConfig, l *logicParts, p *process) (*logic.OfflinePush, error) {
	if !cfg.Offline.On() {
		return nil, nil
	}
	port, err := callback.NewOffline(cfg.Offline, nil, time.Now)
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

// newUpstream is nil where no endpoint is configured.
func newUpstream(cfg LogicConfig, p *process) (*logic.Upstream, error) {
	if !cfg.Upstream.On() {
		return nil, nil
	}
	port, err := callback.NewUpstream(cfg.Upstream, nil, time.Now)
	if err != nil {
		return nil, err
	}
	return logic.NewUpstream(cfg.Upstream.Send, port, p.log, p.metrics)
}

// upstreamStage stops after everything that brings messages.
func upstreamStage(l *logicParts) stage {
	return stage{
		name: "upstream",
		start: func(ctx context.Context) error {
			if l.upstream == nil {
				return nil
			}
			return l.upstream.Start(ctx)
		},
		stop: func(ctx context.Context) error {
			if l.upstream == nil {
				return nil
			}
			return l.upstream.Close(ctx)
		},
		budget: 5 * time.Second,
	}
}
