// Package transfer moves the events of one site's stream into another's, each
// once and in the order of its origin. The importer keeps its position in its
// own stream, in the same atomic write as the events it takes over, so neither a
// broken connection nor a kill loses or doubles one. It makes no compatibility
// promise.
//
// An importer opens a session: it asks the exporter (question "draw") for what
// comes after its position. The exporter sends frames, which say of each stretch
// of its stream where it begins and where it ends; the importer takes only the
// frame that begins where the last one ended, commits it, and acknowledges. Any
// doubt, such as a missing frame, silence, or an unknown outcome of a commit,
// ends the session, and the next one begins at the position that is stored.
package transfer

import (
	"context"
	"time"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
)

const (
	// window is how many bytes of frames may be under way: 100 ms of round trip at
	// 100 MB/s, and a commit, fit in.
	window = 16 << 20
	// A frame of frameBytes or frameEvents takes no further event.
	frameBytes  = 256 << 10
	frameEvents = 333
	// frameCost is what a frame counts at least in the window.
	frameCost = 1 << 10
	// beat is how often an idle exporter says that it is there.
	beat = 500 * time.Millisecond
	// positionEvery is how often a position is stored while another link is ahead
	// and there is no event to store with it.
	positionEvery = 5 * time.Second
	// silence is how long either side waits for the other before the session ends.
	silence = 3 * time.Second
	// retry spaces attempts to open a session.
	retry = 200 * time.Millisecond
	// commitBytes bounds what an importer commits at once.
	commitBytes = 4 << 20
	// backGrace is how long a stream may end before the peer's position until that
	// means that its disk went back: a leader just elected may still be reading.
	backGrace = 4 * time.Second
	// keepEvery is how often an importer looks whether its position is about to be
	// removed with the oldest of its stream.
	keepEvery = 5 * time.Second
	// keepFrom is how large the stream is at least then, in bytes: retention cannot
	// be set to less than four times as much.
	keepFrom = 4 << 20
	// insistent is how often, and silence how long, a batch of one event may be
	// incomplete until the event is left out.
	insistent = 4
)

// Room is what a message grows by at most on its way into another site's
// stream: an id, the headers of a batch, and a space after each header's name.
// An event that leaves so much of max_payload free can be stored there. In bytes.
const Room = 20 << 10

// Question is the name under which the importer asks for a session.
const Question = "draw"

// Agreement is what two sites exchange, as one of them sees it.
type Agreement struct {
	Here, Peer string
}

// Subjects of the link, as the receiver of a message sees them: Inbound(a, b) is
// the prefix of all that a may receive from b.
func Inbound(to, from string) string { return "wl." + to + "." + from + "." }

func eventsSubject(to, from, session string) string { return Inbound(to, from) + "evt." + session }
func acksSubject(to, from, session string) string   { return Inbound(to, from) + "ack." + session }

// Deps is what both directions use.
type Deps struct {
	obs.Scope
	Bus *bus.Bus
	// Ask sends a question to the peer and returns its answer.
	Ask func(ctx context.Context, question string, data []byte) ([]byte, error)
	// Up tells whether the peer answers; nil: that is not known.
	Up func() bool
	// Active tells whether this node is the one of its site that imports.
	Active func() bool
}

// position is how far an importer has come in the exporter's stream.
type position struct {
	Epoch string `json:"epoch"` // of the exporter's stream; empty: nowhere yet
	Seq   uint64 `json:"seq"`
	// At is when the exporter stored the message at Seq, in Unix nanoseconds: it
	// tells this message from another that took its place on a disk that went back.
	At int64 `json:"at"`
	// Subjects are the filters: what they let pass up to Seq is taken over.
	Subjects []string `json:"subjects,omitempty"`
	// Taken is what was taken over further on, under other filters.
	Taken []taken `json:"taken,omitempty"`
}

// opening asks for a session.
type opening struct {
	Session string   `json:"session"`
	From    position `json:"from"`
	Wants
}

// Wants is what an importer wants of its peer.
type Wants struct {
	Import []string `json:"import"`           // patterns
	Relays bool     `json:"relays,omitempty"` // of the peer's edges, too
}

// opened answers it.
type opened struct {
	Epoch   string   `json:"epoch"`
	After   uint64   `json:"after"` // the first frame begins here
	Filters []string `json:"filters"`
	// Subjects are the same on NATS, with their origins.
	Subjects []string `json:"subjects,omitempty"`
	// Anew and Back tell why After is not the position asked for: the stream was
	// made anew, or its disk went back to an earlier state.
	Anew    bool   `json:"anew,omitempty"`
	Back    bool   `json:"back,omitempty"`
	Problem string `json:"problem,omitempty"`
}

// ack tells how far the importer has come in a session.
type ack struct {
	Bytes uint64 `json:"bytes"` // of frames taken since the session began
	Seq   uint64 `json:"seq"`   // all up to here is stored
}
