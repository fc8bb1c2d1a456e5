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

// restore sends a snapshot to the server that is to restore it.
func (c *Carrier) restore(ctx context.Context, st Stream, p Progress) error {
	f, err := os.Open(filepath.Join(c.Dir, st.File))
	if err != nil {
		return err
	}
	defer f.Close()
	cfg := st.Config
	cfg.Replicas = 1 // copied to others when it is complete
	to, err := c.request(ctx, server.JSApiStreamRestoreRequest{Config: cfg, State: st.State})
	if err != nil {
		return err
	}
	answers, err := c.Conn.SubscribeSync(c.Conn.NewInbox())
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	buf, sent, open, next := make([]byte, chunk), int64(0), 0, time.Now().Add(news)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			if err := c.send(ctx, to, answers, buf[:n], &open); err != nil {
				return err
			}
			sent += int64(n)
			c.tell(ctx, st, p, sent, &next)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
	}
	for ; open > 0; open-- {
		if err := take(ctx, answers, quiet); err != nil {
			return err
		}
	}
	if err := c.Conn.PublishRequest(to, answers.Subject, nil); err != nil {
		return fmt.Errorf("send snapshot: %w", err)
	}
	return take(ctx, answers, endTimeout)
}

// send sends a chunk when there is room for it. The first one is sent again while
// nobody hears it: this node may not know yet that another one listens.
func (c *Carrier) send(ctx context.Context, to string, answers *nats.Subscription, data []byte, open *int) error {
	first := *open == 0
	for ; *open >= window/chunk; *open-- {
		if err := take(ctx, answers, quiet); err != nil {
			return err
		}
	}
	for until := time.Now().Add(apiTimeout); ; run.Pause(ctx, pause/10) {
		if err := c.Conn.PublishRequest(to, answers.Subject, data); err != nil {
			return fmt.Errorf("send snapshot: %w", err)
		}
		if !first {
			*open++
			return nil
		}
		if err := take(ctx, answers, quiet); !errors.Is(err, nats.ErrNoResponders) || time.Now().After(until) {
			return err
		}
	}
}

// tell reports progress.
func (c *Carrier) tell(ctx context.Context, st Stream, p Progress, sent int64, next *time.Time) {
	p.Bytes = uint64(float64(p.Size) * float64(sent) / float64(max(st.Size, 1)))
	p.All += p.Bytes
	c.Report(p)
	if time.Now().Before(*next) {
		return
	}
	*next = time.Now().Add(news)
	c.Log.InfoContext(ctx, "restoring the site's history", "stream", p.Stream, "bytes", p.Bytes, "percent", int(100*p.All/max(p.Total, 1)))
}

// request asks for the restore and returns where to send it. Until the cluster
// has a leader nobody answers.
func (c *Carrier) request(ctx context.Context, req server.JSApiStreamRestoreRequest) (to string, err error) {
	err = again(ctx, "ask for the restore", func(ctx context.Context) error {
		var resp answer
		if err := call(ctx, c.Conn, fmt.Sprintf(server.JSApiStreamRestoreT, req.Config.Name), req, &resp); err != nil {
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
