package loadtest_test

import (
	"net"
	"testing"
	"time"

	"weft.dev/weft/loadtest"
)

// answering is a connection that answers every request at once.
type answering struct {
	net.Conn
	answer []byte
}

func (a *answering) Write(b []byte) (int, error) { return len(b), nil }
func (a *answering) Read(b []byte) (int, error)  { return copy(b, a.answer), nil }
func (a *answering) SetDeadline(time.Time) error { return nil }

func TestRoundTripAllocatesNothing(t *testing.T) {
	send := loadtest.RoundTripper(&answering{answer: []byte("HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")})
	now := time.Now()
	n := testing.AllocsPerRun(100, func() {
		if err := send(now); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations for a round trip, want 0", n)
	}
}
