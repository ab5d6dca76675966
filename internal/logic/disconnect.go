package logic

import (
	"context"
	"fmt"

	"github.com/perseid-im/perseid/internal/presence"
)

// Disconnect removes sessions of a node, each only where it is still the
// recorded one.
func (c *Core) Disconnect(ctx context.Context, node presence.Node, sessions []presence.Session) error {
	if len(sessions) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	if err := c.presence.Disconnect(ctx, node, sessions); err != nil {
		c.metrics.presence.Inc(forDisconnect)
		return fmt.Errorf("disconnect %d sessions of %s: %w", len(sessions), node.Name, err)
	}
	return nil
}

// Leave ends the lease of a node that stops: all its locations are void.
func (c *Core) Leave(ctx context.Context, node presence.Node) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.PresenceTimeout)
	defer cancel()
	if err := c.presence.Release(ctx, node); err != nil {
		c.metrics.presence.Inc(forLeave)
		return fmt.Errorf("leave of %s: %w", node.Name, err)
	}
	return nil
}
