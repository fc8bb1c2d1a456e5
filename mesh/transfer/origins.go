package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/wire"
)

// originPrefix is where a site keeps how far it has come with each origin whose
// events come by several links or at second hand.
const originPrefix = "weft.off.origin."

// place is where an event stands in the stream of its origin.
type place struct {
	Seq uint64 `json:"seq"`
	At  int64  `json:"at"` // when it was stored there, Unix ns
}

// beyond: the stream of an origin goes on in sequence and time. A stream that was
// made anew or a disk that went back repeats sequences, but not times; a clock
// that is set back repeats times, but not sequences.
func (p place) beyond(known place) bool { return p.Seq > known.Seq || p.At > known.At }

// header is the place as an event carries it.
func (p place) header() string {
	return strconv.FormatUint(p.Seq, 10) + " " + strconv.FormatInt(p.At, 10)
}

// locate finds where an event stands in the stream of its origin: the peer's own
// where the peer says it does, others where the first importer noted it. It
// refuses headers that are none of an event: the server would act on them.
func (r *record) locate(peer string) error {
	var odd error
	own := 0
	err := wire.Lines(r.Header, func(name, value []byte) {
		switch {
		case !crosses(name):
			odd = fmt.Errorf("%w: header %.40q", errFrame, name)
		case string(name) == event.HeaderOrigin:
			own++
			r.place.read(string(value))
		}
	})
	if r.origin == peer {
		r.place = place{r.Seq, r.At}
	}
	if err == nil && odd == nil && r.origin == peer && own > 0 {
		odd = fmt.Errorf("%w: header %s of an event of its own", errFrame, event.HeaderOrigin)
	}
	return errors.Join(err, odd)
}

// read reads what header writes; what is none leaves the place empty.
func (p *place) read(text string) {
	seq, at, _ := strings.Cut(text, " ")
	s, errSeq := strconv.ParseUint(seq, 10, 64)
	t, errAt := strconv.ParseInt(at, 10, 64)
	if errSeq == nil && errAt == nil {
		*p = place{s, t}
	}
}

// Origins is how far a site has come with each origin that is shared by its
// links. The importers of one node have one of it; the importers of two nodes
// keep each other out by the sequence of the stored places.
type Origins struct {
	mu    sync.Mutex       // held from the look at a place until the commit behind it
	known map[string]known // guarded by mu; nil: what is stored is not known
}

// known is a stored place and the sequence of its record in the own stream.
type known struct {
	place
	record uint64
}

// forget makes the next session read what is stored: another node may change it.
func (o *Origins) forget() {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.known = nil
}

// recall reads what is stored, unless it is known. Called with mu held.
func (o *Origins) recall(ctx context.Context, b *bus.Bus) error {
	if o.known != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	s, err := b.JetStream().Stream(ctx, bus.Stream)
	if err != nil {
		return fmt.Errorf("read places in the streams of other sites: %w", err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(originPrefix+"*"))
	if err != nil {
		return fmt.Errorf("read places in the streams of other sites: %w", err)
	}
	all := map[string]known{}
	for subject := range info.State.Subjects {
		m, found, err := b.Last(ctx, subject)
		if err != nil {
			return err
		}
		k := known{record: m.Seq}
		if !found {
			continue
		}
		if err := json.Unmarshal(m.Data, &k.place); err != nil {
			return fmt.Errorf("read %s: %w", subject, err)
		}
		all[strings.TrimPrefix(subject, originPrefix)] = k
	}
	o.known = all
	return nil
}

// step is the new place of an origin, to be stored with the events up to it.
type step struct {
	origin string
	to     place
}

// message stores a step. Called with mu held.
func (o *Origins) message(s step) (wire.Message, error) {
	data, err := json.Marshal(s.to)
	if err != nil {
		return wire.Message{}, fmt.Errorf("encode place: %w", err)
	}
	return offset(originPrefix+s.origin, data, o.known[s.origin].record), nil
}

// offset is a message that takes the place of the record before it. It never
// expires: an idle link must not forget its position. Of two nodes that import at
// once, as after an election, one gives way.
func offset(subject string, data []byte, before uint64) wire.Message {
	return wire.Message{
		Subject: subject, Data: data,
		First: "Nats-Rollup: sub\r\nNats-TTL: never\r\nNats-Expected-Last-Subject-Sequence: " + strconv.FormatUint(before, 10) + "\r\n",
	}
}
