package growth

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// quiet is how long a snapshot may make no progress: the server may have to look
// through many removed messages for the next one.
const quiet = time.Minute

// Store is the store to take streams from.
type Store struct {
	Conn       *nats.Conn
	Site, Node string
	Dir        string // where to; made here
	Report     Report
}

// Sizes lists the streams of the store with what they hold.
func (s Store) Sizes(ctx context.Context) (map[string]uint64, error) {
	js, err := jetstream.New(s.Conn)
	if err != nil {
		return nil, fmt.Errorf("use jetstream: %w", err)
	}
	sizes := map[string]uint64{}
	list := js.ListStreams(ctx)
	for i := range list.Info() {
		sizes[i.Config.Name] = i.State.Bytes
	}
	if err := list.Err(); err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	return sizes, nil
}

// Take writes all streams into the directory and reads them back. The manifest
// is written last: a directory without one is to be made again.
func (s Store) Take(ctx context.Context) (Manifest, error) {
	m := Manifest{ID: strings.ToLower(rand.Text()[:10]), Site: s.Site, Node: s.Node, At: time.Now().UTC()}
	if err := os.RemoveAll(s.Dir); err != nil {
		return m, fmt.Errorf("clear growth: %w", err)
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return m, fmt.Errorf("make growth: %w", err)
	}
	sizes, err := s.Sizes(ctx)
	if err != nil {
		return m, err
	}
	var names []string
	p := Progress{Of: len(sizes)}
	for name, size := range sizes {
		names = append(names, name)
		p.Total += size
	}
	slices.Sort(names)
	for i, name := range names {
		p.Stream, p.Index = name, i+1
		st, err := s.stream(ctx, &p)
		if err != nil {
			return m, fmt.Errorf("take stream %s: %w", name, err)
		}
		m.Streams = append(m.Streams, st)
	}
	m.Streams = arrange(m.Streams)
	if err := SyncDir(s.Dir); err != nil {
		return m, fmt.Errorf("save growth: %w", err)
	}
	return m, m.save(s.Dir)
}

// stream takes one stream.
func (s Store) stream(ctx context.Context, p *Progress) (Stream, error) {
	st := Stream{File: fmt.Sprintf("%03d.snapshot", p.Index)}
	sub, err := s.Conn.SubscribeSync(s.Conn.NewInbox())
	if err != nil {
		return st, fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := sub.SetPendingLimits(-1, 4*window); err != nil {
		return st, fmt.Errorf("listen: %w", err)
	}
	var opened server.JSApiStreamSnapshotResponse
	req := server.JSApiStreamSnapshotRequest{DeliverSubject: sub.Subject, ChunkSize: chunk, WindowSize: window}
	err = api{s.Conn}.call(ctx, fmt.Sprintf(server.JSApiStreamSnapshotT, p.Stream), req, &opened)
	if err != nil {
		return st, err
	}
	if opened.Error != nil {
		return st, opened.Error
	}
	st.Config = *opened.Config
	p.Bytes, p.Size, p.Done = 0, opened.State.Bytes, false
	before := p.All
	path := filepath.Join(s.Dir, st.File)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return st, err
	}
	sum := sha256.New()
	_, err = s.receive(ctx, sub, io.MultiWriter(f, sum), func(bytes uint64) {
		p.Bytes, p.All = min(bytes, p.Size), before+min(bytes, p.Size)
		s.Report(*p)
	})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return st, err
	}
	if err := s.readBack(path, sum, &st); err != nil {
		return st, err
	}
	p.Bytes, p.All, p.Done = p.Size, before+p.Size, true
	s.Report(*p)
	return st, nil
}

// receive writes what the server sends, and reads along to tell how far it is.
func (s Store) receive(ctx context.Context, sub *nats.Subscription, to io.Writer, progress func(uint64)) (contents, error) {
	type result struct {
		contents
		err error
	}
	r, w := io.Pipe()
	read := make(chan result, 1)
	go func() { // ends when w is closed
		var state server.StreamState
		c, err := audit(r, &state, progress)
		_ = r.CloseWithError(err)
		read <- result{c, err}
	}()
	err := chunks(ctx, sub, io.MultiWriter(to, w))
	_ = w.CloseWithError(err) // EOF if err is nil
	got := <-read
	if err != nil && !errors.Is(err, got.err) {
		return got.contents, err
	}
	return got.contents, got.err
}

// chunks writes a snapshot as it comes. The server sends on as chunks are
// acknowledged, so no more than a window is in memory.
func chunks(ctx context.Context, sub *nats.Subscription, to io.Writer) error {
	for {
		own, cancel := context.WithTimeout(ctx, quiet)
		m, err := sub.NextMsgWithContext(own)
		cancel()
		if err != nil {
			return fmt.Errorf("wait for snapshot: %w", err)
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return fmt.Errorf("the server ended the snapshot: %s %s", status, m.Header.Get("Description"))
			}
			return nil
		}
		if _, err := to.Write(m.Data); err != nil {
			return fmt.Errorf("write snapshot: %w", err)
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return fmt.Errorf("acknowledge snapshot: %w", err)
			}
		}
	}
}

// readBack reads the file as it is on disk and notes what it holds.
func (s Store) readBack(path string, want hash.Hash, st *Stream) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	c, err := audit(io.TeeReader(bufio.NewReaderSize(f, 1<<20), sum), &st.State, func(uint64) {})
	if err != nil {
		return err
	}
	st.Sum = hex.EncodeToString(sum.Sum(nil))
	if st.Sum != hex.EncodeToString(want.Sum(nil)) {
		return fmt.Errorf("%s is not what was written to it: the disk is damaged", path)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st.Size, st.Consumers, st.Largest = info.Size(), c.consumers, c.largest
	return nil
}

// api is the server's, as a connection reaches it.
type api struct{ *nats.Conn }

// call asks once.
func (a api) call(ctx context.Context, subject string, req, resp any) error {
	data, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := a.RequestWithContext(ctx, subject, data)
	if err != nil {
		return fmt.Errorf("ask %s: %w", subject, err)
	}
	if err := json.Unmarshal(m.Data, resp); err != nil {
		return fmt.Errorf("read answer of %s: %w", subject, err)
	}
	return nil
}
