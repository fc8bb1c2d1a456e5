package growth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"weft.dev/weft/internal/run"
)

// endTimeout is how long the server may take for the rest of a restore once it
// has everything: it stores what it has buffered and activates consumers.
const endTimeout = time.Minute

// answer is an answer of the server's API.
type answer struct {
	Error          *jetstream.APIError `json:"error"`
	DeliverSubject string              `json:"deliver_subject"`
}

func (a answer) err() error {
	if a.Error == nil {
		return nil
	}
	return a.Error
}

// shipment is a snapshot on its way to the server that restores it.
type shipment struct {
	*Carrier
	stream  Stream
	at      Progress // before it
	to      string
	answers *nats.Subscription
	open    int   // chunks that are not answered
	sent    int64 // bytes
	next    time.Time
}

// restore sends a snapshot to the server that is to restore it.
func (c *Carrier) restore(ctx context.Context, st Stream, at Progress) error {
	f, err := os.Open(filepath.Join(c.Dir, st.File))
	if err != nil {
		return err
	}
	defer f.Close()
	cfg := st.Config
	cfg.Replicas = 1 // copied to others when it is complete
	s := &shipment{Carrier: c, stream: st, at: at, next: time.Now().Add(news)}
	if s.to, err = c.request(ctx, server.JSApiStreamRestoreRequest{Config: cfg, State: st.State}); err != nil {
		return err
	}
	if s.answers, err = c.Conn.SubscribeSync(c.Conn.NewInbox()); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = s.answers.Unsubscribe() }()
	for buf := make([]byte, chunk); ; {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			if err := s.send(ctx, buf[:n]); err != nil {
				return err
			}
			s.tell(ctx)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return s.end(ctx)
		}
		if err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
	}
}

// send sends a chunk when there is room for it. The first one is sent again while
// nobody hears it: this node may not know yet that another one listens.
func (s *shipment) send(ctx context.Context, data []byte) error {
	for ; s.open >= window/chunk; s.open-- {
		if err := take(ctx, s.answers, quiet); err != nil {
			return err
		}
	}
	first := s.sent == 0
	s.sent += int64(len(data))
	for until := time.Now().Add(apiTimeout); ; run.Pause(ctx, pause/10) {
		if err := s.Conn.PublishRequest(s.to, s.answers.Subject, data); err != nil {
			return fmt.Errorf("send snapshot: %w", err)
		}
		if !first {
			s.open++
			return nil
		}
		if err := take(ctx, s.answers, quiet); !errors.Is(err, nats.ErrNoResponders) || time.Now().After(until) {
			return err
		}
	}
}

// end tells the server that this was all, and waits until it has restored it.
func (s *shipment) end(ctx context.Context) error {
	for ; s.open > 0; s.open-- {
		if err := take(ctx, s.answers, quiet); err != nil {
			return err
		}
	}
	if err := s.Conn.PublishRequest(s.to, s.answers.Subject, nil); err != nil {
		return fmt.Errorf("send snapshot: %w", err)
	}
	return take(ctx, s.answers, endTimeout)
}

// tell reports progress.
func (s *shipment) tell(ctx context.Context) {
	p := s.at
	p.Bytes = uint64(float64(p.Size) * float64(s.sent) / float64(max(s.stream.Size, 1)))
	p.All += p.Bytes
	s.Report(p)
	if time.Now().Before(s.next) {
		return
	}
	s.next = time.Now().Add(news)
	s.Log.InfoContext(ctx, "restoring the site's history", "stream", p.Stream, "bytes", p.Bytes, "percent", int(100*p.All/max(p.Total, 1)))
}

// request asks for the restore and returns where to send it. Until the cluster
// has a leader nobody answers.
func (c *Carrier) request(ctx context.Context, req server.JSApiStreamRestoreRequest) (to string, err error) {
	err = again(ctx, "ask for the restore", func(ctx context.Context) error {
		var resp answer
		if err := c.api().call(ctx, fmt.Sprintf(server.JSApiStreamRestoreT, req.Config.Name), req, &resp); err != nil {
			// The request may have been heard: what it made is in the way.
			if cleared := c.clear(ctx, req.Config.Name); cleared != nil {
				return cleared
			}
			return err
		}
		to = resp.DeliverSubject
		return resp.err()
	})
	return to, err
}

// take waits for the server's answer to a chunk, or to the end.
func take(ctx context.Context, answers *nats.Subscription, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	m, err := answers.NextMsgWithContext(ctx)
	if err != nil {
		return fmt.Errorf("wait for the server that restores: %w", err)
	}
	if len(m.Data) == 0 {
		if m.Header.Get("Status") == "503" {
			return fmt.Errorf("send snapshot: %w", nats.ErrNoResponders)
		}
		return nil
	}
	var resp answer
	if err := json.Unmarshal(m.Data, &resp); err != nil {
		return fmt.Errorf("read answer to snapshot: %w", err)
	}
	return resp.err()
}
