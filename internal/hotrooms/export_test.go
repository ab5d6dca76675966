package hotrooms

import "context"

// The turns of the goroutine, one at a time.

func (t *Tracker) Flush(ctx context.Context) error { return t.flush(ctx) }

func (t *Tracker) Build(ctx context.Context) error { return t.build(ctx) }

func (t *Tracker) Read(ctx context.Context) error { return t.read(ctx) }
