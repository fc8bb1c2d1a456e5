package sns

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/run"
)

const (
	longPoll          = 20 // seconds, the most SQS waits
	defaultPollers    = 2
	maxPollers        = 32
	defaultVisibility = 30 * time.Second
	retryMin          = 200 * time.Millisecond
	retryMax          = 30 * time.Second
	deleteQueue       = 1024 // receipts of stored messages on their way to be deleted
	deleteTries       = 3
	settleGrace       = 5 * time.Second // for the last deletes at the end
)

// SourceConfig is what is read.
type SourceConfig struct {
	AWS        `yaml:",inline"`
	QueueURL   string        `yaml:"queueUrl" doc:"Queue, most often one subscribed to a topic; raw delivery and the notification envelope are both read"`
	Visibility conf.Duration `yaml:"visibility" doc:"How long a message stays hidden after a crash; extended while it is in work; empty: 30s"`
	Pollers    int           `yaml:"pollers" doc:"Receives at a time; 0: 2"`
}

// Validate names every key that cannot work.
func (c SourceConfig) Validate() error {
	errs := []error{c.AWS.Validate(), conf.URL("queueUrl", c.QueueURL, "http", "https"), conf.Between("pollers", c.Pollers, 0, maxPollers)}
	if c.Visibility != 0 {
		errs = append(errs, conf.Between("visibility", c.Visibility, conf.Duration(time.Second), conf.Duration(12*time.Hour)))
	}
	return errors.Join(errs...)
}

// Source reads a queue. A lane is a poller: SQS itself holds back the rest of a
// FIFO group while some of it is in work, so no group is in two lanes.
type Source struct {
	cfg SourceConfig
	driver.Deps
	aws    aws.Config
	client *sqs.Client // set by open

	work sync.WaitGroup // batches in the engine

	deletes chan string // receipts of stored messages; made by Run

	mu   sync.Mutex // guards held, and aws and client while open sets them
	held map[string]struct{}
}

// NewSource returns a source that is not connected.
func NewSource(cfg SourceConfig, d driver.Deps) *Source {
	if cfg.Visibility == 0 {
		cfg.Visibility = conf.Duration(defaultVisibility)
	}
	if cfg.Pollers == 0 {
		cfg.Pollers = defaultPollers
	}
	return &Source{cfg: cfg, Deps: d}
}

// Info describes the source.
func (s *Source) Info() driver.Info {
	return driver.Info{System: "aws_sqs", Text: "sqs " + s.queue()}
}

func (s *Source) queue() string { return path.Base(s.cfg.QueueURL) }

func (s *Source) open(ctx context.Context) error {
	cfg, err := s.cfg.load(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aws, s.client = cfg, sqs.NewFromConfig(cfg)
	return nil
}

// Run implements driver.Source.
func (s *Source) Run(ctx context.Context, emit driver.Emit) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	defer func() { hangUp(s.aws) }()
	s.mu.Lock()
	s.held = map[string]struct{}{}
	s.mu.Unlock()
	read, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	settle, done := context.WithCancel(context.WithoutCancel(ctx)) // outlives reading
	defer done()
	s.deletes = make(chan string, deleteQueue)
	var pollers, keepers sync.WaitGroup
	keepers.Go(func() { s.extend(settle) })
	deleted := make(chan struct{})
	go func() {
		defer close(deleted)
		s.remove(settle)
	}()
	for i := range s.cfg.Pollers {
		lane := "poll-" + strconv.Itoa(i)
		pollers.Go(func() {
			if err := s.poll(read, lane, emit); err != nil {
				stop(err)
			}
		})
	}
	pollers.Wait()
	s.work.Wait()
	close(s.deletes)
	defer time.AfterFunc(settleGrace, done).Stop() // what is not deleted by then comes again
	<-deleted
	done()
	keepers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(read)
}

// poll receives and emits until ctx ends.
func (s *Source) poll(ctx context.Context, lane string, emit driver.Emit) error {
	wait := retryMin
	for ctx.Err() == nil {
		out, err := s.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
			QueueUrl: &s.cfg.QueueURL, MaxNumberOfMessages: maxEntries, WaitTimeSeconds: longPoll,
			VisibilityTimeout:           int32(s.cfg.Visibility.Std() / time.Second),
			MessageAttributeNames:       []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{types.MessageSystemAttributeNameAll},
		})
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			s.Report(fmt.Errorf("receive from sqs: %w", explain("queue "+s.cfg.QueueURL, err)))
			run.Pause(ctx, wait)
			wait = min(2*wait, retryMax)
			continue
		}
		s.Report(nil)
		wait = retryMin
		if len(out.Messages) == 0 {
			continue
		}
		if err := s.emit(ctx, lane, out.Messages, emit); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

func (s *Source) emit(ctx context.Context, lane string, msgs []types.Message, emit driver.Emit) error {
	receipts := make([]string, len(msgs))
	b := driver.Batch{Context: context.WithoutCancel(ctx), Lane: lane, Records: make([]*driver.Record, len(msgs))}
	for i, m := range msgs {
		receipts[i] = aws.ToString(m.ReceiptHandle)
		b.Records[i] = s.record(m)
	}
	s.hold(receipts)
	s.work.Add(1)
	b.Done = func(err error) {
		defer s.work.Done()
		if err != nil {
			s.giveBack(context.WithoutCancel(ctx), receipts)
			return
		}
		for _, r := range receipts {
			s.deletes <- r
		}
	}
	if err := emit(ctx, b); err != nil {
		b.Done(err)
		return err
	}
	return nil
}

// record makes an event of a message. One that is no CloudEvent is known by its
// deduplication id, the topic's message id or the queue's.
func (s *Source) record(m types.Message) *driver.Record {
	attrs := make(map[string]string, len(m.MessageAttributes))
	for name, a := range m.MessageAttributes {
		if a.BinaryValue != nil {
			attrs[name] = binaryMarker + encode64(a.BinaryValue)
		} else {
			attrs[name] = aws.ToString(a.StringValue)
		}
	}
	body, id, source := aws.ToString(m.Body), aws.ToString(m.MessageId), "/sqs/"+s.queue()
	out := &driver.Record{Topic: s.queue(), Position: id, At: sentAt(m)}
	if n, inner, ok := unwrap(body); ok && len(attrs) == 0 {
		attrs, body, id, source = inner, n.Message, n.MessageId, "/sns/"+path.Base(lastPart(n.TopicArn))
	}
	if d := m.Attributes[string(types.MessageSystemAttributeNameMessageDeduplicationId)]; d != "" {
		id = d
	}
	var err error
	if out.Event, err = decode(attrs, body); err != nil {
		out.Err = driver.Permanent("bad-event", fmt.Errorf("decode message %s of %s: %w", out.Position, out.Topic, err))
	}
	e := &out.Event
	if g := m.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]; g != "" && e.ID == "" {
		addHeader(e, event.HeaderKey, g) // a CloudEvent has its own key, if any
	}
	if e.ID == "" {
		e.ID = id
	}
	if e.Source == "" {
		e.Source = source
	}
	return out
}

func sentAt(m types.Message) time.Time {
	ms, err := strconv.ParseInt(m.Attributes[string(types.MessageSystemAttributeNameSentTimestamp)], 10, 64)
	if err != nil {
		return time.Now()
	}
	return time.UnixMilli(ms)
}

// Lag implements driver.Lagger.
func (s *Source) Lag(ctx context.Context) (int64, error) {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client == nil {
		return 0, errors.New("read sqs queue: not connected yet")
	}
	out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: &s.cfg.QueueURL, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameApproximateNumberOfMessages},
	})
	if err != nil {
		return 0, fmt.Errorf("read sqs queue: %w", explain("queue "+s.cfg.QueueURL, err))
	}
	return strconv.ParseInt(out.Attributes[string(types.QueueAttributeNameApproximateNumberOfMessages)], 10, 64)
}

// Check implements driver.Source.
func (s *Source) Check(ctx context.Context) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	defer func() { hangUp(s.aws) }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.Lag(ctx)
	return err
}
