package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"weft.dev/weft/bridge"
	"weft.dev/weft/bridge/bridgetest"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/obs"
)

// engine is a bridge between fakes, running under synctest's clock.
type engine struct {
	*bridge.Service
	log     *bridgetest.Log
	sink    *bridgetest.Store
	letters *bridgetest.Letters
	stop    func()
}

// start runs the engine inside a synctest bubble. The test calls stop.
func start(t *testing.T, cfg bridge.Config, sink *bridgetest.Store, scope obs.Scope) engine {
	t.Helper()
	e := engine{log: bridgetest.NewLog(), sink: sink, letters: &bridgetest.Letters{}}
	cfg.Name = "b1"
	e.Service = bridge.NewWith(cfg, bridge.Deps{Scope: scope, Site: "fra", DeadLetters: e.letters}, bridge.Ends{
		Source: e.log, Sink: sink, From: driver.Info{System: "kafka", Text: "log"}, To: driver.Info{System: "aws.sns", Text: "store"},
		Dest: driver.MustParse("out.{{type}}"), Key: driver.MustParse("{{header `ce-partitionkey` | default `none`}}"),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	e.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e engine) put(lane string, from, to int) {
	for _, r := range bridgetest.Records("", bridgetest.Events(to)[from:]) {
		e.log.Add(lane, r)
	}
}

func (e engine) state() bridge.Status { return e.Status(context.Background())[0] }

// pass lets time go by in the bubble, and everything that happens in it.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func lost(got []event.Event, n int) (missing []string) {
	have := map[string]bool{}
	for _, e := range got {
		have[e.ID] = true
	}
	for i := range n {
		if !have[strconv.Itoa(i)] {
			missing = append(missing, strconv.Itoa(i))
		}
	}
	return missing
}

func TestCarriesBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writes, largest := 0, 0
		sink := &bridgetest.Store{Before: func(_ context.Context, recs []*driver.Record) []error {
			writes++
			largest = max(largest, len(recs))
			return nil
		}}
		e := start(t, bridge.Config{Batch: bridge.Batch{Size: 50}}, sink, obs.Discard())
		e.put("l", 0, 1000)
		pass(time.Second)
		if e.log.Done() != 1000 || len(lost(sink.Events(), 1000)) > 0 {
			t.Errorf("settled %d of 1000", e.log.Done())
		}
		if largest > 50 || writes > 200 {
			t.Errorf("%d writes, the largest of %d records", writes, largest)
		}
		r := sink.Stored()[0]
		if r.Dest != "out.test" || string(r.Key) != "a" || r.Event.Extensions[event.ExtPath] != "fra/b1" {
			t.Errorf("record = %+v", r)
		}
		if st := e.state(); st.State != bridge.Running || st.Read != 1000 || st.Stored != 1000 || st.InFlight != 0 {
			t.Errorf("status = %+v", st)
		}
		e.stop()
		if st := e.state(); st.State != bridge.Stopped {
			t.Errorf("status after the end = %+v", st)
		}
	})
}

// A lone event waits for linger and no longer.
func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &bridgetest.Store{}
		e := start(t, bridge.Config{Batch: bridge.Batch{Linger: 20e6}}, sink, obs.Discard())
		e.put("l", 0, 1)
		pass(19 * time.Millisecond)
		if n := len(sink.Stored()); n != 0 {
			t.Errorf("stored %d before linger is over", n)
		}
		pass(2 * time.Millisecond)
		if n := len(sink.Stored()); n != 1 {
			t.Errorf("stored %d after linger", n)
		}
		e.stop()
	})
}

func TestRetriesWhatFailsAndOnlyThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []int
		sink := &bridgetest.Store{Before: func(_ context.Context, recs []*driver.Record) []error {
			tries = append(tries, len(recs))
			errs := driver.Errors(len(recs), nil)
			if len(tries) < 4 {
				errs[0], errs[len(errs)-1] = errors.New("busy"), errors.New("busy")
			}
			return errs
		}}
		e := start(t, bridge.Config{}, sink, obs.Discard())
		e.log.Batch = 10
		e.put("l", 0, 10)
		pass(50 * time.Millisecond)
		if st := e.state(); st.State != bridge.Retrying || st.Reason != "busy" || e.log.Done() != 0 {
			t.Errorf("while it fails: %+v, settled %d", st, e.log.Done())
		}
		pass(10 * time.Second)
		if fmt.Sprint(tries) != "[10 2 2 2]" || e.log.Done() != 10 || len(sink.Stored()) != 10 {
			t.Errorf("tries = %v, settled %d, stored %d", tries, e.log.Done(), len(sink.Stored()))
		}
		if st := e.state(); st.State != bridge.Running || st.Reason != "" || st.LastError != "busy" || st.Retries != 3 {
			t.Errorf("after it healed: %+v", st)
		}
		e.stop()
	})
}

func TestBackOffIsBoundedAndHeedsTheSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		sink := &bridgetest.Store{Before: func(context.Context, []*driver.Record) []error {
			at = append(at, time.Now())
			err := errors.New("down")
			if len(at) == 1 {
				err = driver.RetryAfter(err, 5*time.Second)
			}
			return []error{err}
		}}
		e := start(t, bridge.Config{}, sink, obs.Discard())
		e.put("l", 0, 1)
		pass(time.Hour)
		e.stop()
		if first := at[1].Sub(at[0]); first < 5*time.Second {
			t.Errorf("first retry after %v, the system asked for 5s", first)
		}
		for i := 12; i < len(at); i++ {
			if d := at[i].Sub(at[i-1]); d < 15*time.Second || d > 30*time.Second {
				t.Errorf("retry %d after %v", i, d)
			}
		}
		if len(at) < 120 {
			t.Errorf("%d tries in an hour", len(at))
		}
	})
}

func TestDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &bridgetest.Store{Before: func(_ context.Context, recs []*driver.Record) []error {
			errs := driver.Errors(len(recs), nil)
			for i, r := range recs {
				if r.Event.ID == "1" {
					errs[i] = driver.Permanent("too-large", errors.New("message of 9 MB"))
				}
			}
			return errs
		}}
		e := start(t, bridge.Config{}, sink, obs.Discard())
		blocked := atomic.Bool{}
		blocked.Store(true)
		e.letters.Err = func() error {
			if blocked.Load() {
				return errors.New("no quorum")
			}
			return nil
		}
		recs := bridgetest.Records("", bridgetest.Events(4))
		recs[2].Event.Type = "" // the template of the destination has nothing to go by
		recs[3].Err = driver.Permanent("bad-event", errors.New("no JSON"))
		e.log.Add("l", recs...)
		pass(time.Minute)
		if st := e.state(); st.State != bridge.Retrying || !strings.Contains(st.Reason, "store dead letter: no quorum") || e.log.Done() != 0 {
			t.Errorf("while the dead letters are away: %+v, settled %d", st, e.log.Done())
		}
		blocked.Store(false)
		pass(time.Minute)
		if e.log.Done() != 4 {
			t.Errorf("settled %d of 4", e.log.Done())
		}
		got := map[string]string{}
		for _, l := range e.letters.All() {
			got[l.Event.ID] = l.Reason
			if l.Owner != "b1" || l.Stream != "EVENTS" || l.Position == "" || l.Subject != "test.created" || l.Event.Extensions[event.ExtPath] != "" {
				t.Errorf("letter = %+v", l)
			}
		}
		if fmt.Sprint(got) != "map[1:too-large 2:template 3:bad-event]" {
			t.Errorf("dead letters = %v", got)
		}
		if st := e.state(); st.Dead != 3 || st.Stored != 1 || st.State != bridge.Running {
			t.Errorf("status = %+v", st)
		}
		e.stop()
	})
}

func TestLoopGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t, bridge.Config{}, &bridgetest.Store{}, obs.Discard())
		for _, path := range []string{"", "iad/b1", "fra/x,fra/b1", "1,2,3,4,5,6,7", "1,2,3,4,5,6,7,8"} {
			r := bridgetest.Records("", bridgetest.Events(1))[0]
			r.Event.SetExtension(event.ExtPath, path)
			e.log.Add("l", r)
		}
		pass(time.Second)
		var got []string
		for _, ev := range e.sink.Events() {
			got = append(got, ev.Extensions[event.ExtPath])
		}
		if want := []string{"fra/b1", "iad/b1,fra/b1", "1,2,3,4,5,6,7,fra/b1"}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("paths = %v, want %v", got, want)
		}
		if st := e.state(); st.Dropped != 2 || e.log.Done() != 5 {
			t.Errorf("dropped %d, settled %d", st.Dropped, e.log.Done())
		}
		e.stop()
	})
}

// A slow sink holds the source back instead of filling the memory.
func TestBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		sink := &bridgetest.Store{Before: func(context.Context, []*driver.Record) []error { <-release; return nil }}
		e := start(t, bridge.Config{}, sink, obs.Discard())
		recs := bridgetest.Records("", bridgetest.Events(300))
		for _, r := range recs {
			r.Event.Data = make([]byte, 1<<20)
			e.log.Add("l", r)
		}
		pass(time.Minute)
		if st := e.state(); st.InFlight > 64 || st.InFlight < 50 || st.LagSeconds < 59 {
			t.Errorf("%d events of 1 MiB in work, the oldest for %vs", st.InFlight, st.LagSeconds)
		}
		close(release)
		pass(time.Minute)
		if e.log.Done() != 300 {
			t.Errorf("settled %d of 300", e.log.Done())
		}
		e.stop()
	})
}

// One lane that fails does not hold another.
func TestLanesAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &bridgetest.Store{Before: func(_ context.Context, recs []*driver.Record) []error {
			if n, _ := strconv.Atoi(recs[0].Event.ID); n < 10 {
				return driver.Errors(len(recs), errors.New("partition offline"))
			}
			return nil
		}}
		e := start(t, bridge.Config{}, sink, obs.Discard())
		e.put("bad", 0, 10)
		e.put("good", 10, 100)
		pass(time.Minute)
		if st := e.state(); e.log.Done() != 90 || st.State != bridge.Retrying || st.Reason != "partition offline" {
			t.Errorf("settled %d, want the 90 of the good lane; %+v", e.log.Done(), st)
		}
		e.stop()
	})
}

func TestPauseAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t, bridge.Config{}, &bridgetest.Store{}, obs.Discard())
		e.put("l", 0, 10)
		pass(time.Second)
		if err := e.Pause("b1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		e.put("l", 10, 20)
		pass(time.Hour)
		if st := e.state(); st.State != bridge.Paused || e.log.Done() != 10 {
			t.Errorf("paused: %+v, settled %d", st, e.log.Done())
		}
		if err := e.Resume("b1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if st := e.state(); st.State != bridge.Running || e.log.Done() != 20 {
			t.Errorf("resumed: %+v, settled %d", st, e.log.Done())
		}
		if err := e.Pause("nope"); !errors.Is(err, bridge.ErrUnknown) {
			t.Errorf("pause of an unknown bridge: %v", err)
		}
		e.stop()
	})
}

// A driver that panics, or a sink that cannot be opened, restarts the bridge and
// loses nothing.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		writes, opens := 0, 0
		sink := &bridgetest.Store{
			Before: func(context.Context, []*driver.Record) []error {
				if writes++; writes == 2 {
					panic("nil map")
				}
				return nil
			},
			OpenErr: func() error {
				if opens++; opens <= 3 {
					return errors.New("connection refused")
				}
				return nil
			},
		}
		e := start(t, bridge.Config{Batch: bridge.Batch{Size: 10}}, sink, obs.Discard())
		pass(time.Millisecond)
		if st := e.state(); st.State != bridge.Retrying || st.Reason != "connection refused" {
			t.Errorf("before it can be opened: %+v", st)
		}
		e.put("l", 0, 100)
		pass(time.Minute)
		if len(lost(sink.Events(), 100)) > 0 || e.log.Done() < 100 || e.log.Runs() != 2 {
			t.Errorf("stored %d, settled %d, runs %d", len(sink.Stored()), e.log.Done(), e.log.Runs())
		}
		if st := e.state(); st.State != bridge.Running || !strings.Contains(st.LastError, "panic: nil map") {
			t.Errorf("status = %+v", st)
		}
		e.stop()
	})
}

// A bridge that is told to end while its sink is down ends soon and leaves the
// rest to its source.
func TestStopsWhileTheSinkIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &bridgetest.Store{Before: func(ctx context.Context, recs []*driver.Record) []error {
			<-ctx.Done() // a client that hangs
			return driver.Errors(len(recs), ctx.Err())
		}}
		e := start(t, bridge.Config{}, sink, obs.Discard())
		e.put("l", 0, 10)
		pass(time.Second)
		began := time.Now()
		e.stop()
		if took := time.Since(began); took > 11*time.Second || e.log.Done() != 0 {
			t.Errorf("took %v, settled %d", took, e.log.Done())
		}
	})
}

// A batch is never done before an earlier one of its lane, or a source with one
// position would forget the earlier one.
func TestDoneKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &bridgetest.Store{Before: func(_ context.Context, recs []*driver.Record) []error {
			errs := driver.Errors(len(recs), nil)
			for i, r := range recs {
				if r.Event.ID == "3" {
					errs[i] = errors.New("busy")
				}
			}
			return errs
		}}
		e := start(t, bridge.Config{}, sink, obs.Discard())
		e.put("l", 0, 10) // ten batches of one, written together
		pass(time.Second)
		e.put("l", 10, 20)
		pass(time.Second)
		e.stop()
		if n := e.log.Done(); n != 3 {
			t.Errorf("settled %d, want the 3 before the one that failed", n)
		}
	})
}

func TestMetricsAndSpans(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	rec := tracetest.NewSpanRecorder()
	scope := obs.Discard()
	scope.Metrics, scope.Tracer = reg, sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(rec)).Tracer("test")
	synctest.Test(t, func(t *testing.T) {
		e := start(t, bridge.Config{}, &bridgetest.Store{}, scope)
		recs := bridgetest.Records("", bridgetest.Events(3))
		recs[0].Event.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		recs[1].Event.SetExtension("traceparent", "00-0af7651916cd43dd8448eb211c80319d-b7ad6b7169203331-00") // not sampled
		e.log.Add("l", recs...)
		pass(10 * time.Second)
		e.stop()
		if tp := e.sink.Events()[2].Traceparent(); tp == "" {
			t.Error("an event without a trace got none")
		}
	})
	var got []string
	for _, s := range rec.Ended() {
		got = append(got, fmt.Sprintf("%s %s %s", s.Name(), s.SpanKind(), s.Parent().SpanID()))
		if s.Parent().IsValid() && s.SpanContext().TraceID().String() != "0af7651916cd43dd8448eb211c80319c" && s.Name() == "receive EVENTS" {
			t.Errorf("span %s in trace %s", s.Name(), s.SpanContext().TraceID())
		}
	}
	if len(got) != 4 || !strings.HasPrefix(got[0], "receive EVENTS client b7ad6b7169203331") || !strings.HasPrefix(got[1], "receive EVENTS client 0000") && !strings.HasPrefix(got[1], "publish out.test client") {
		t.Errorf("spans = %q", got)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	if n, err := testutil.GatherAndCount(reg, "weft_bridge_messages_total", "weft_bridge_connected", "weft_bridge_inflight", "weft_bridge_batch_size"); err != nil || n < 6 {
		t.Errorf("%d series, %v", n, err)
	}
}
