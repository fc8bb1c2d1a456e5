package sns_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"weft.dev/weft/bridge/bridgetest"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/sns"
	"weft.dev/weft/bridge/sns/snsfake"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
)

// region is a fake AWS with a topic and a queue behind it.
type region struct {
	*snsfake.Server
	url    string
	client *sqs.Client
}

func start(t testing.TB, cfg snsfake.Config) region {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := region{Server: snsfake.New(cfg), url: "http://" + l.Addr().String()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.client = sqs.New(sqs.Options{Region: "us-east-1", BaseEndpoint: &r.url, Credentials: credentials.NewStaticCredentialsProvider("key", "secret", "")})
	return r
}

func (r region) aws() sns.AWS {
	return sns.AWS{Region: "us-east-1", Endpoint: r.url, AccessKey: "key", SecretKey: "secret"}
}

func (r region) pipe(t testing.TB, topic, queue string, raw bool) {
	t.Helper()
	if err := r.Pipe(topic, queue, raw); err != nil {
		t.Fatal(err)
	}
}

func (r region) sink(topic string, d driver.Deps) driver.Sink {
	return sns.NewSink(sns.SinkConfig{AWS: r.aws(), TopicARN: r.TopicARN(topic)}, d)
}

func (r region) source(queue string, d driver.Deps) driver.Source {
	return sns.NewSource(sns.SourceConfig{AWS: r.aws(), QueueURL: r.QueueURL(r.url, queue), Visibility: conf.Duration(2 * time.Second)}, d)
}

// drain reads a queue to its end with the SDK.
func (r region) drain(t testing.TB, queue string) []event.Event {
	t.Helper()
	var out []event.Event
	for r.Stored(queue) > 0 {
		got, err := r.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(r.QueueURL(r.url, queue)), MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range got.Messages {
			out = append(out, event.Event{ID: *m.MessageAttributes["ce_id"].StringValue})
			if _, err := r.client.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: aws.String(r.QueueURL(r.url, queue)), ReceiptHandle: m.ReceiptHandle}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

func TestSinkConformance(t *testing.T) {
	for _, suffix := range []string{"", ".fifo"} {
		t.Run("topic"+suffix, func(t *testing.T) {
			bridgetest.Sink(t, func(t *testing.T) bridgetest.SinkRig {
				r := start(t, snsfake.Config{})
				r.pipe(t, "orders"+suffix, "q"+suffix, true)
				return bridgetest.SinkRig{
					New:     func(d driver.Deps) driver.Sink { return r.sink("orders"+suffix, d) },
					Ordered: suffix == ".fifo",
					Read:    func(t testing.TB) []event.Event { return r.drain(t, "q"+suffix) },
					FailSome: func() {
						r.Fail(snsfake.Fault{Action: "PublishBatch", Entries: []int{0, 2}, Times: 3})
					},
					LoseAnswer: func() { r.Fail(snsfake.Fault{Action: "PublishBatch", AfterEffect: true}) },
					TooLarge:   event.Event{ID: "large", Source: "/test", Type: "test", Data: []byte(strings.Repeat("x", 300_000))},
					Stall: func() func() {
						r.Fail(snsfake.Fault{Action: "PublishBatch", Delay: time.Minute, Times: 10})
						return func() {}
					},
				}
			})
		})
	}
}

func TestSourceConformance(t *testing.T) {
	for _, suffix := range []string{"", ".fifo"} {
		t.Run("queue"+suffix, func(t *testing.T) {
			bridgetest.Source(t, func(t *testing.T) bridgetest.SourceRig {
				r := start(t, snsfake.Config{})
				r.pipe(t, "orders"+suffix, "q"+suffix, true)
				d, _ := bridgetest.Deps(t)
				sink := r.sink("orders"+suffix, d)
				if err := sink.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(sink.Close)
				return bridgetest.SourceRig{
					New:     func(d driver.Deps) driver.Source { return r.source("q"+suffix, d) },
					Ordered: suffix == ".fifo",
					Put: func(t testing.TB, events []event.Event) {
						if errs := sink.Write(t.Context(), bridgetest.Records("", events)); errs != nil {
							t.Fatal(errors.Join(errs...))
						}
					},
				}
			})
		})
	}
}

func write(t *testing.T, s driver.Sink, events ...event.Event) []error {
	t.Helper()
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Write(t.Context(), bridgetest.Records("", events))
}

// What a consumer that knows nothing of Weft finds in its queue.
func TestMessageOfAnEvent(t *testing.T) {
	r := start(t, snsfake.Config{})
	r.pipe(t, "orders", "q", true)
	d, _ := bridgetest.Deps(t)
	e := event.Event{
		ID: "1", Source: "/shop", Type: "order.created", Subject: "o/1", Time: "2026-01-02T03:04:05Z", DataContentType: "application/json",
		DataSchema: "https://example.com/s", Data: []byte(`{"a":"ü"}`), Headers: map[string][]string{"X-Many": {"a", "b"}},
		Extensions: map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "correlationid": "c1", "tenant": "blue", "zone": "eu"},
	}
	if errs := write(t, r.sink("orders", d), e, event.Event{ID: "2", Source: "/shop", Type: "t", Data: []byte{0xff}}); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	out, err := r.client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: aws.String(r.QueueURL(r.url, "q")), MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"}})
	if err != nil || len(out.Messages) != 2 {
		t.Fatalf("received %v, %v", out, err)
	}
	attrs := func(m types.Message) map[string]string {
		all := map[string]string{}
		for k, v := range m.MessageAttributes {
			all[k] = *v.StringValue
		}
		return all
	}
	byID := map[string]types.Message{}
	for _, m := range out.Messages {
		byID[attrs(m)["ce_id"]] = m
	}
	got := attrs(byID["1"])
	packed := got["weft_headers"]
	delete(got, "weft_headers")
	if want := "map[ce_correlationid:c1 ce_id:1 ce_source:/shop ce_specversion:1.0 ce_subject:o/1 ce_time:2026-01-02T03:04:05Z ce_type:order.created content-type:application/json traceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01]"; fmt.Sprint(got) != want || *byID["1"].Body != `{"a":"ü"}` {
		t.Errorf("attributes = %v\nwant %s\nbody %s", got, want, *byID["1"].Body)
	}
	var rest map[string]any
	if err := json.Unmarshal([]byte(packed), &rest); err != nil || fmt.Sprint(rest) != "map[X-Many:[a b] ce_dataschema:https://example.com/s ce_tenant:blue ce_zone:eu]" {
		t.Errorf("packed = %s, %v", packed, err)
	}
	if got := attrs(byID["2"]); got["content-type"] != event.MediaJSON || !strings.Contains(*byID["2"].Body, `"data_base64":"/w=="`) {
		t.Errorf("binary data = %v, %s", got, *byID["2"].Body)
	}
}

func TestSourceReadsForeignMessages(t *testing.T) {
	r := start(t, snsfake.Config{})
	r.pipe(t, "orders", "q", true)
	r.pipe(t, "o.fifo", "q.fifo", true)
	send := func(queue, body, group string, attrs map[string]types.MessageAttributeValue) {
		in := &sqs.SendMessageInput{QueueUrl: aws.String(r.QueueURL(r.url, queue)), MessageBody: &body, MessageAttributes: attrs}
		if group != "" {
			in.MessageGroupId, in.MessageDeduplicationId = &group, aws.String("dedup-1")
		}
		if _, err := r.client.SendMessage(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	text := func(v string) types.MessageAttributeValue {
		return types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &v}
	}
	send("q", "plain", "", map[string]types.MessageAttributeValue{"region": text("eu"), "bin": {DataType: aws.String("Binary"), BinaryValue: []byte{1}}})
	got := read(t, r.source("q", deps(t)), 1)[0]
	if e := got.Event; e.ID != got.Position || e.Source != "/sqs/q" || string(e.Data) != "plain" || e.Headers["region"][0] != "eu" || e.Headers["bin"][0] != "=?b64?AQ==" {
		t.Errorf("plain message = %+v", got)
	}
	send("q", `{"x":1}`, "", map[string]types.MessageAttributeValue{"ce-id": text("7"), "ce-type": text("t"), "ce-source": text("/s"), "Content-Type": text("application/json")})
	if e := read(t, r.source("q", deps(t)), 1)[0].Event; e.ID != "7" || e.Type != "t" || e.Source != "/s" || e.DataContentType != "application/json" {
		t.Errorf("ce- attributes = %+v", e)
	}
	send("q", `{broken`, "", map[string]types.MessageAttributeValue{"content-type": text(event.MediaJSON)})
	if rec := read(t, r.source("q", deps(t)), 1)[0]; rec.Err == nil || string(rec.Event.Data) != "{broken" {
		t.Errorf("broken structured event = %+v", rec)
	}
	send("q", "x", "", map[string]types.MessageAttributeValue{"Nats-Rollup": text("all"), "lines": text("a\nb"), "weft_headers": text(`{"a b":["1"],"":["2"]}`)})
	if e := read(t, r.source("q", deps(t)), 1)[0].Event; fmt.Sprint(e.Headers) != "map[Weft-Header-:[2] Weft-Header-TmF0cy1Sb2xsdXA:[all] Weft-Header-YSBi:[1] lines:[=?b64?YQpi]]" {
		t.Errorf("headers that NATS would not keep = %v", e.Headers)
	}
	send("q.fifo", "x", "g1", nil)
	if e := read(t, r.source("q.fifo", deps(t)), 1)[0].Event; e.ID != "dedup-1" || e.Headers[event.HeaderKey][0] != "g1" {
		t.Errorf("fifo message = %+v", e)
	}
}

func deps(t *testing.T) driver.Deps {
	d, _ := bridgetest.Deps(t)
	return d
}

func read(t *testing.T, s driver.Source, n int) []*driver.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan *driver.Record, 1000)
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(_ context.Context, b driver.Batch) error {
			for _, r := range b.Records {
				got <- r
			}
			b.Done(nil)
			return nil
		})
	}()
	var out []*driver.Record
	for len(out) < n {
		select {
		case r := <-got:
			out = append(out, r)
		case <-ctx.Done():
			t.Fatalf("read %d of %d messages", len(out), n)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return out
}

// A message in work for longer than its visibility timeout does not come twice.
func TestVisibilityIsExtended(t *testing.T) {
	r := start(t, snsfake.Config{})
	r.pipe(t, "orders", "q", true)
	d, _ := bridgetest.Deps(t)
	if errs := write(t, r.sink("orders", d), bridgetest.Events(3)...); errs != nil {
		t.Fatal(errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	batches := make(chan driver.Batch, 100)
	done := make(chan error, 1)
	go func() {
		done <- r.source("q", d).Run(ctx, func(_ context.Context, b driver.Batch) error { batches <- b; return nil })
	}()
	n := 0
	var held []driver.Batch
	slow := time.After(3 * time.Second) // the visibility timeout is 2 s
	for waiting := true; waiting; {
		select {
		case b := <-batches:
			n += len(b.Records)
			held = append(held, b)
		case <-slow:
			waiting = false
		}
	}
	for _, b := range held {
		b.Done(nil)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n != 3 || r.Stored("q") != 0 {
		t.Errorf("%d messages came, %d are left; want 3 and 0", n, r.Stored("q"))
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	r := start(t, snsfake.Config{AccessKey: "key"})
	r.pipe(t, "orders", "q", true)
	d, _ := bridgetest.Deps(t)
	other := r.aws()
	other.AccessKey = "other"
	tests := []struct {
		name  string
		check interface{ Check(context.Context) error }
		want  string
	}{
		{"topic", r.sink("orders", d), ""},
		{"queue", r.source("q", d), ""},
		{"unknown topic", r.sink("nope", d), "arn:aws:sns:us-east-1:000000000000:nope does not exist"},
		{"unknown queue", r.source("nope", d), "nope does not exist"},
		{"wrong key", sns.NewSink(sns.SinkConfig{AWS: other, TopicARN: r.TopicARN("orders")}, d), "aws denies access to topic arn:"},
		{"nobody there", sns.NewSink(sns.SinkConfig{AWS: sns.AWS{Region: "x", Endpoint: "http://127.0.0.1:1", AccessKey: "k", SecretKey: "s"}, TopicARN: r.TopicARN("orders")}, d), `look up sns topic: reach aws: Post "http://127.0.0.1:1/": dial tcp 127.0.0.1:1: connect: connection refused`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.check.Check(t.Context()); (tt.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("check: %v, want %q", err, tt.want)
			}
		})
	}
}

func TestSenderFaultIsFinal(t *testing.T) {
	r := start(t, snsfake.Config{})
	r.pipe(t, "orders", "q", true)
	d, _ := bridgetest.Deps(t)
	r.Fail(snsfake.Fault{Action: "PublishBatch", Entries: []int{1}, SenderFault: true, Code: "InvalidParameter"})
	errs := write(t, r.sink("orders", d), bridgetest.Events(3)...)
	if _, final := driver.Reason(errs[1]); errs[0] != nil || errs[2] != nil || !final {
		t.Errorf("errors = %v, want only the second, for good", errs)
	}
	// A call that is refused as a whole for one entry's content is split.
	r.Fail(snsfake.Fault{Action: "PublishBatch", Code: "InvalidParameter", Status: 400})
	if errs := write(t, r.sink("orders", d), bridgetest.Events(3)...); errs != nil {
		t.Errorf("errors after the split = %v", errs)
	}
}

// What is about the account heals; dead letters would be the whole stream.
func TestThrottledIsNotFinal(t *testing.T) {
	r := start(t, snsfake.Config{})
	r.pipe(t, "orders", "q", true)
	for _, code := range []string{"Throttled", "ThrottlingException", "KMSDisabled", "AuthorizationError"} {
		r.Fail(snsfake.Fault{Action: "PublishBatch", Entries: []int{0}, SenderFault: true, Code: code})
		errs := write(t, r.sink("orders", deps(t)), bridgetest.Events(1)...)
		if len(errs) == 0 || errs[0] == nil {
			t.Fatalf("%s: stored", code)
		}
		if _, final := driver.Reason(errs[0]); final {
			t.Errorf("%s: %v is final", code, errs[0])
		}
	}
}

// A message that the answer does not name is not stored for all we know.
func TestAnswerWithoutFates(t *testing.T) {
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		action := r.FormValue("Action")
		fmt.Fprintf(w, `<%sResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><%sResult></%sResult></%sResponse>`, action, action, action, action)
	}))
	defer aws.Close()
	sink := sns.NewSink(sns.SinkConfig{
		AWS:      sns.AWS{Region: "x", Endpoint: aws.URL, AccessKey: "k", SecretKey: "s"},
		TopicARN: "arn:aws:sns:x:000000000000:orders",
	}, deps(t))
	if errs := write(t, sink, bridgetest.Events(2)...); len(errs) != 2 || errs[0] == nil || errs[1] == nil {
		t.Errorf("errors = %v, want one for each message", errs)
	}
}
