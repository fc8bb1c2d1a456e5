package growth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/archive"
)

// contents is what an audit found in a snapshot.
type contents struct {
	messages  uint64
	bytes     uint64 // as they are counted in the store
	largest   int64
	consumers []Consumer
}

var errIncomplete = errors.New("the snapshot ends before its end")

// audit reads a snapshot from beginning to end, as the server will, and tells
// what it holds. The callback gets the bytes of messages read so far.
//
// A snapshot is an S2 stream, which has checksums, of entries: the stream's
// state, its consumers, its messages in order, and an empty entry as the end.
func audit(r io.Reader, state *server.StreamState, progress func(bytes uint64)) (contents, error) {
	var c contents
	in := archive.NewReader(s2.NewReader(r))
	h, err := in.Next()
	if err != nil {
		return c, fmt.Errorf("read snapshot: %w", err)
	}
	if h.Name != "state.json" {
		return c, fmt.Errorf("read snapshot: it begins with %q, want state.json", h.Name)
	}
	if err := json.NewDecoder(in).Decode(state); err != nil {
		return c, fmt.Errorf("read snapshot: state: %w", err)
	}
	for range state.Consumers {
		if h, err = in.Next(); err != nil {
			return c, fmt.Errorf("read snapshot: consumers: %w", err)
		}
		name, ok := strings.CutPrefix(h.Name, "consumers/")
		if !ok {
			return c, fmt.Errorf("read snapshot: %q, want a consumer", h.Name)
		}
		var consumer struct {
			Config server.ConsumerConfig `json:"config"`
			State  server.ConsumerState  `json:"state"`
		}
		if err := json.NewDecoder(in).Decode(&consumer); err != nil {
			return c, fmt.Errorf("read snapshot: consumer %s: %w", name, err)
		}
		if consumer.Config.Durable != "" {
			c.consumers = append(c.consumers, Consumer{name, consumer.State.Delivered.Stream, consumer.State.AckFloor.Stream})
		}
	}
	for last := uint64(0); ; {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return c, fmt.Errorf("read snapshot: %w", errIncomplete)
		case err != nil:
			return c, fmt.Errorf("read snapshot: message after %d: %w", last, err)
		case h.Sequence == 0 && h.Name == "":
			_, err := io.Copy(io.Discard, r) // so that who writes it comes to its end
			return c, err
		case h.Sequence <= last || h.Sequence > state.LastSeq:
			return c, fmt.Errorf("read snapshot: message %d after %d, last is %d", h.Sequence, last, state.LastSeq)
		}
		last = h.Sequence
		size := h.HeaderSize + h.PayloadSize
		c.messages++
		c.bytes += uint64(size) + uint64(len(h.Name)) + overhead
		c.largest = max(c.largest, size)
		progress(c.bytes)
	}
}
