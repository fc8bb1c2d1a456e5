package bus

import (
	"fmt"
	"sync"

	"weft.dev/weft/internal/wire"
)

// Near gives the bus a second connection to the server, if that is in the same
// process, for what comes by the ten thousand a second.
func Near(dial func() (*wire.Conn, error)) Option { return func(b *Bus) { b.near.dial = dial } }

// near is that connection, made when it is first needed and again when it has ended.
type near struct {
	dial func() (*wire.Conn, error) // nil: there is none

	mu   sync.Mutex
	conn *wire.Conn // guarded by mu
}

// get returns the connection; nil if there is none to be.
func (n *near) get() (*wire.Conn, error) {
	if n.dial == nil {
		return nil, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil && n.conn.Err() == nil {
		return n.conn, nil
	}
	c, err := n.dial()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	n.conn = c
	return c, nil
}

func (n *near) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		n.conn.Close()
	}
}
