package sidecar

import (
	"context"

	"weft.dev/weft/internal/bus"
)

// feed pulls one subscription's events from the upstream of the moment.
type feed struct {
	up     *upstream
	cfg    bus.ConsumeConfig
	puller *bus.Puller // nil before the first connection; used by the lane's puller goroutine alone
}

// Pull is part of source.
func (f *feed) Pull(ctx context.Context, n int, h func(*bus.Delivery)) error {
	select {
	case <-f.up.first:
	case <-ctx.Done():
		return nil
	}
	b, err := f.up.connected()
	if err != nil {
		return err
	}
	if f.puller == nil {
		f.puller = b.Puller(f.cfg)
	}
	return f.puller.Pull(ctx, n, h)
}
