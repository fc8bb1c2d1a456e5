package transfer_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
	"weft.dev/weft/mesh/transfer"
)

// rig is two real sites and, in place of the leaf connection between them, a
// wire that the test holds: b imports from a.
type rig struct {
	node map[string]*mesh.Node
	cfg  map[string]mesh.Config
	deps map[string]mesh.Deps
	halt map[string]func()

	x     *transfer.Exporter
	i     *transfer.Importer
	tally counter
	logs  *logs

	serving context.Context // of the sessions

	mu   sync.Mutex
	drop func(subject string) bool // guarded by mu; nil: all crosses
}

// counter counts what the importer reports.
type counter struct {
	imported, known, duplicates, refused, restarted, rolledBack, epochs atomic.Int64
}

func (c *counter) Imported(n int) { c.imported.Add(int64(n)) }
func (c *counter) Known(n int)    { c.known.Add(int64(n)) }
func (c *counter) Duplicate()     { c.duplicates.Add(1) }
func (c *counter) Refused()       { c.refused.Add(1) }
func (c *counter) Restarted()     { c.restarted.Add(1) }
func (c *counter) RolledBack()    { c.rolledBack.Add(1) }
func (c *counter) Epoch()         { c.epochs.Add(1) }

// logs keeps the messages that were logged at a level and above.
type logs struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logs) has(parts ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines, func(line string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) })
	})
}

const retention = 16 << 20 // bytes

// newRig starts two sites; those named keep more than retention.
func newRig(t *testing.T, roomy ...string) *rig {
	r := &rig{node: map[string]*mesh.Node{}, cfg: map[string]mesh.Config{}, deps: map[string]mesh.Deps{}, halt: map[string]func(){}, logs: &logs{}}
	for _, site := range []string{"a", "b"} {
		cfg := mesh.DefaultConfig()
		cfg.Client.Listen = ""
		if !slices.Contains(roomy, site) {
			cfg.Events.MaxBytes = retention
		}
		r.cfg[site], r.deps[site] = cfg, wefttest.Deps(t, site)
		r.start(t, site)
	}
	t.Cleanup(func() {
		for _, halt := range r.halt {
			halt()
		}
	})
	return r
}

func (r *rig) start(t *testing.T, site string) {
	t.Helper()
	r.node[site], r.halt[site] = wefttest.StartStop(t, r.cfg[site], r.deps[site])
}

func (r *rig) bus(site string) *bus.Bus { return r.node[site].Bus() }

// wire lets what names the pair cross, in order, unless drop says no.
func (r *rig) wire(t *testing.T) (unplug func()) {
	t.Helper()
	var subs []*nats.Subscription
	for to, from := range map[string]string{"a": "b", "b": "a"} {
		there := r.bus(to).Conn()
		sub, err := r.bus(from).Conn().Subscribe(transfer.Inbound(to, from)+">", func(m *nats.Msg) {
			r.mu.Lock()
			drop := r.drop != nil && r.drop(m.Subject)
			r.mu.Unlock()
			if !drop {
				_ = there.Publish(m.Subject, m.Data)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
	}
	return func() {
		for _, s := range subs {
			_ = s.Unsubscribe()
		}
	}
}

func (r *rig) lose(drop func(subject string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop = drop
}

func (r *rig) scope() obs.Scope {
	s := obs.Discard()
	s.Log = slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelInfo}))
	return s
}

func yes() bool { return true }

func (r *rig) exporter() *transfer.Exporter {
	return &transfer.Exporter{
		Agreement: transfer.Agreement{Here: "a", Peer: "b"},
		Deps:      transfer.Deps{Scope: r.scope(), Bus: r.bus("a"), Active: yes},
		Filters:   func(transfer.Wants) (subjects, patterns []string) { return []string{"ev.a.>"}, []string{">"} },
		Keep:      transfer.Retention{MaxAge: 7 * 24 * time.Hour, MaxBytes: retention},
	}
}

func (r *rig) importer() *transfer.Importer { return r.importerFrom(r.x) }

func (r *rig) importerFrom(x *transfer.Exporter) *transfer.Importer {
	return &transfer.Importer{
		Agreement: transfer.Agreement{Here: "b", Peer: "a"},
		Deps: transfer.Deps{Scope: r.scope(), Bus: r.bus("b"), Active: yes, Ask: func(_ context.Context, _ string, data []byte) ([]byte, error) {
			return x.Open(r.serving, data), nil // sessions outlive the question
		}},
		Wants: transfer.Wants{Import: []string{">"}}, Accept: func(origin string) bool { return origin == "a" }, Count: &r.tally,
	}
}

// link joins the sites until cut is called.
func (r *rig) link(t *testing.T, importers ...*transfer.Importer) (cut func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.serving = ctx
	unplug := r.wire(t)
	var running sync.WaitGroup
	for _, i := range importers {
		running.Go(func() { _ = i.Run(ctx) })
	}
	var once sync.Once
	cut = func() {
		once.Do(func() {
			cancel()
			running.Wait()
			r.x.Wait()
			unplug()
		})
	}
	t.Cleanup(cut)
	return cut
}

// linked is a rig with one exporter and one importer that run.
func linked(t *testing.T) *rig {
	r := newRig(t)
	r.x = r.exporter()
	r.i = r.importer()
	r.link(t, r.i)
	return r
}

// native publishes messages without any header at a: nothing but the sessions
// keeps them from being doubled. Their data is their name and filling.
func native(t *testing.T, b *bus.Bus, prefix string, count, size int) {
	t.Helper()
	for i := range count {
		data := fmt.Appendf(nil, "%s-%d ", prefix, i)
		data = append(data, make([]byte, max(0, size-len(data)))...)
		if _, err := b.JetStream().Publish(t.Context(), "ev.a.orders.created", data); err != nil {
			t.Fatalf("publish %d: %v", i, err)
		}
	}
}

// names are the first words of the data of all events of a at a site, in order.
func names(t *testing.T, b *bus.Bus) (out []string) {
	t.Helper()
	for after := uint64(0); ; {
		events, next, err := b.Page(t.Context(), bus.PageConfig{After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Origin == "a" {
				name, _, _ := strings.Cut(string(e.Data), " ")
				out = append(out, name)
			}
		}
		if len(events) == 0 {
			return out
		}
		after = next
	}
}

func held(t *testing.T, b *bus.Bus) int {
	t.Helper()
	n, _, err := b.Behind(t.Context(), "ev.a.>", 0)
	if err != nil {
		return -1
	}
	return int(n)
}

func series(prefix string, count int) []string {
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	return out
}

// same waits until b has as many events of a as wanted and compares them.
func (r *rig) same(t *testing.T, want ...string) {
	t.Helper()
	wefttest.Eventually(t, 30*time.Second, fmt.Sprintf("%d events at b", len(want)), func() bool { return held(t, r.bus("b")) >= len(want) })
	if got := names(t, r.bus("b")); !slices.Equal(got, want) {
		t.Errorf("b holds %d events, want %d in their order", len(got), len(want))
	}
}

func isEvents(subject string) bool { return strings.HasPrefix(subject, "wl.b.a.evt.") }

func TestWrongOriginIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.x = r.exporter()
	i := r.importer()
	i.Accept = func(origin string) bool { return origin == "c" }
	r.link(t, i)
	native(t, r.bus("a"), "m", 3, 0)
	wefttest.Eventually(t, 10*time.Second, "the refusal", func() bool { return strings.Contains(i.State().Problem, "may not come from there") })
	if got := held(t, r.bus("b")); got != 0 {
		t.Errorf("%d events of a site that may not send them are stored", got)
	}
}

func TestLostFrame(t *testing.T) {
	t.Parallel()
	r := linked(t)
	native(t, r.bus("a"), "1", 20, 0)
	r.same(t, series("1", 20)...)
	lost := false
	r.lose(func(subject string) bool {
		drop := isEvents(subject) && !lost
		lost = lost || drop
		return drop
	})
	native(t, r.bus("a"), "2", 200, 0)
	r.same(t, slices.Concat(series("1", 20), series("2", 200))...)
}

func TestSilentExporter(t *testing.T) {
	t.Parallel()
	r := linked(t)
	native(t, r.bus("a"), "1", 20, 0)
	r.same(t, series("1", 20)...)
	r.lose(isEvents)
	native(t, r.bus("a"), "2", 200, 0)
	wefttest.Eventually(t, 10*time.Second, "the problem named", func() bool { return strings.Contains(r.i.State().Problem, "no frame from site a within") })
	r.lose(nil)
	r.same(t, slices.Concat(series("1", 20), series("2", 200))...)
}

// A link user that may not send acknowledgements stops the window; the session
// ends and says why, and events arrive meanwhile, each once.
func TestAcknowledgementsDoNotArrive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.x = r.exporter()
	r.i = r.importer()
	r.lose(func(subject string) bool { return !isEvents(subject) })
	r.link(t, r.i)
	native(t, r.bus("a"), "1", 20, 0)
	wefttest.Eventually(t, 20*time.Second, "the problem named", func() bool {
		return strings.Contains(r.i.State().Problem, "does not see acknowledgements: its link user must be allowed to receive wl.a.b.>")
	})
	native(t, r.bus("a"), "2", 20, 0)
	r.same(t, slices.Concat(series("1", 20), series("2", 20))...)
}

// The peer may say that it has more than it was sent: that opens no window
// beyond what was sent, and is not taken for its position.
func TestForgedAcknowledgement(t *testing.T) {
	t.Parallel()
	r := linked(t)
	var forged sync.Once
	r.lose(func(subject string) bool {
		if !isEvents(subject) {
			forged.Do(func() {
				_ = r.bus("a").Conn().Publish(subject, []byte(`{"bytes":18446744073709551615,"seq":18446744073709551615}`))
				_ = r.bus("a").Conn().Publish(subject, []byte(`{"bytes":-1}`))
			})
		}
		return false
	})
	native(t, r.bus("a"), "1", 50, 0)
	r.same(t, series("1", 50)...)
	info, err := r.bus("a").Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if at := r.x.State().Position; at > info.Last {
		t.Errorf("the peer's position is %d, behind the end %d", at, info.Last)
	}
}

// Two nodes of a site may import at once for a moment. The fence lets one commit.
func TestTwoImporters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.x = r.exporter()
	native(t, r.bus("a"), "1", 300, 0)
	second := r.exporter() // as at another node of site a
	t.Cleanup(second.Wait) // after its context has ended
	r.link(t, r.importer(), r.importerFrom(second))
	native(t, r.bus("a"), "2", 1500, 0)
	r.same(t, slices.Concat(series("1", 300), series("2", 1500))...)
	if r.tally.restarted.Load() == 0 {
		t.Error("the importers never met")
	}
}

func TestDuplicateInBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	put := func(b *bus.Bus, subject string, i int) {
		m := &nats.Msg{Subject: subject, Data: fmt.Appendf(nil, "m-%d ", i), Header: nats.Header{nats.MsgIdHdr: {fmt.Sprint("id-", i)}}}
		if _, err := b.JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		put(r.bus("a"), "ev.a.orders.created", i)
	}
	put(r.bus("b"), transfer.Staged+"a.orders.created", 17) // b has it already
	r.x = r.exporter()
	r.link(t, r.importer())
	wefttest.Eventually(t, 20*time.Second, "all events", func() bool { return held(t, r.bus("b")) >= 40 })
	got := names(t, r.bus("b"))
	want := slices.Concat([]string{"m-17"}, slices.DeleteFunc(series("m", 40), func(s string) bool { return s == "m-17" }))
	if !slices.Equal(got, want) || r.tally.duplicates.Load() != 1 {
		t.Errorf("b holds %v, %d duplicates", got, r.tally.duplicates.Load())
	}
}

// An event has one id at all sites, whether its producer gave it one or not, or
// one that is none.
func TestIDsAreTheSameEverywhere(t *testing.T) {
	t.Parallel()
	r := linked(t)
	headers := []nats.Header{
		nil,
		{"ce-id": {""}},
		{"ce-id": {"1"}},
		{"Ce-Id": {"2"}},
		{nats.MsgIdHdr: {"3"}},
		{nats.MsgIdHdr: {"bad\x01id"}},
		{"ce-id": {""}, "Weft-Accepted": {"1767366245000000001"}},
		{"X-Own": {"x"}},
	}
	for _, h := range headers {
		if _, err := r.bus("a").JetStream().PublishMsg(t.Context(), &nats.Msg{Subject: "ev.a.orders.created", Header: h, Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	wefttest.Eventually(t, 10*time.Second, "all events", func() bool { return held(t, r.bus("b")) >= len(headers) })
	ids := map[string][]string{}
	for _, site := range []string{"a", "b"} {
		events, _, err := r.bus(site).Page(t.Context(), bus.PageConfig{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			ids[site] = append(ids[site], e.ID)
		}
	}
	if !slices.Equal(ids["a"], ids["b"]) || len(slices.Compact(slices.Sorted(slices.Values(ids["a"])))) != len(headers) {
		t.Errorf("ids at a %q, at b %q", ids["a"], ids["b"])
	}
}

// An event's life time crosses with it.
func TestLifeTimeCrosses(t *testing.T) {
	t.Parallel()
	r := linked(t)
	for _, ttl := range []string{"1s", "1h"} {
		m := &nats.Msg{Subject: "ev.a.ttl." + ttl, Header: nats.Header{"Nats-TTL": {ttl}, "X-Own": {"kept"}}, Data: []byte("x")}
		if _, err := r.bus("a").JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	var long bus.Raw
	wefttest.Eventually(t, 10*time.Second, "both to cross", func() bool {
		var found bool
		var err error
		long, found, err = r.bus("b").Last(t.Context(), "ev.a.ttl.1h")
		return err == nil && found
	})
	want := nats.Header{"Nats-TTL": {"1h"}, "X-Own": {"kept"}}
	for k, v := range want {
		if !slices.Equal(long.Header[k], v) {
			t.Errorf("header %s = %v, want %v; all: %v", k, long.Header[k], v, slices.Collect(maps.Keys(long.Header)))
		}
	}
	wefttest.Eventually(t, 10*time.Second, "the short one to end", func() bool {
		_, found, err := r.bus("b").Last(t.Context(), "ev.a.ttl.1s")
		return err == nil && !found
	})
}

// A message of max_payload fits no single frame. One that leaves room for what
// an importer adds crosses whole, whatever its subject's length; one that does
// not is left out, with a count and an error, and holds up nothing behind it.
func TestLargestMessage(t *testing.T) {
	t.Parallel()
	r := linked(t)
	limit := int(r.bus("a").Conn().MaxPayload())
	data := make([]byte, limit-transfer.Room)
	copy(data, "large ")
	data[len(data)-1] = 'x'
	long := "ev.a." + strings.Repeat("0123456789abcde.", 60) + "end" // no part of max_payload
	wide := nats.Header{}                                            // just within what headers may take in a stream, without a batch's
	wide["X-Wide"] = []string{strings.Repeat("x", 65535-len("NATS/1.0\r\nX-Wide: \r\n\r\n"))}
	for _, m := range []*nats.Msg{
		{Subject: "ev.a.orders.created", Data: data},
		{Subject: long, Data: data},
		{Subject: "ev.a.orders.created", Data: make([]byte, limit)},
		{Subject: "ev.a.orders.created", Data: []byte("wide "), Header: wide},
		{Subject: "ev.a.orders.created", Data: []byte("next ")},
	} {
		if _, err := r.bus("a").JetStream().PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	r.same(t, "large", "large", "next")
	got, _, err := r.bus("b").Last(t.Context(), long)
	if err != nil || len(got.Data) != len(data) || got.Data[len(data)-1] != 'x' {
		t.Errorf("%d bytes arrived, want %d: %v", len(got.Data), len(data), err)
	}
	if n := r.tally.refused.Load(); n != 2 || !r.logs.has("refused by the own stream and left out", "level=ERROR") {
		t.Errorf("%d events left out, want the 2 that do not fit", n)
	}
}
