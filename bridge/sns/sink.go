package sns

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awssns "github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/smithy-go"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
)

const (
	maxMessage  = 256 << 10 // bytes of a message with attributes, and of a batch, unless the topic says more
	maxParallel = 8         // batch calls at a time to a standard topic
	maxGroupID  = 128
)

// SinkConfig is where events go.
type SinkConfig struct {
	AWS      `yaml:",inline"`
	TopicARN string          `yaml:"topicArn" doc:"Topic; one whose name ends in .fifo keeps the order of each group"`
	Group    driver.Template `yaml:"group" doc:"Message group of a FIFO topic, a template; empty: the event's key or partitionkey, else its subject"`
}

// Validate names every key that cannot work.
func (c SinkConfig) Validate() error {
	errs := []error{c.AWS.Validate()}
	if p := strings.Split(c.TopicARN, ":"); len(p) != 6 || p[0] != "arn" || p[2] != "sns" || p[5] == "" {
		errs = append(errs, conf.Field("topicArn", "want arn:aws:sns:<region>:<account>:<topic>"))
	}
	if !c.Group.Empty() && !c.fifo() {
		errs = append(errs, conf.Field("group", "only a FIFO topic (name ending in .fifo) has groups"))
	}
	return errors.Join(errs...)
}

func (c SinkConfig) fifo() bool { return strings.HasSuffix(c.TopicARN, ".fifo") }

func (c SinkConfig) topic() string { return c.TopicARN[strings.LastIndexByte(c.TopicARN, ':')+1:] }

// Sink publishes events to one topic. On a FIFO topic a group has at most one
// message in a call and one call in flight, so that a failed entry never lets a
// later one of its group pass.
type Sink struct {
	cfg SinkConfig
	driver.Deps
	aws    aws.Config
	client *awssns.Client // set by Open
	limit  int            // bytes of a message and of a batch
}

// NewSink returns a sink that is not connected.
func NewSink(cfg SinkConfig, d driver.Deps) *Sink { return &Sink{cfg: cfg, Deps: d, limit: maxMessage} }

// Info describes the sink.
func (s *Sink) Info() driver.Info {
	return driver.Info{System: "aws.sns", Text: "sns " + s.cfg.topic(), MaxBatch: maxEntries * maxParallel}
}

// Open implements driver.Sink: it reads how large the topic's messages may be.
func (s *Sink) Open(ctx context.Context) error {
	cfg, err := s.cfg.load(ctx)
	if err != nil {
		return err
	}
	s.aws, s.client = cfg, awssns.NewFromConfig(cfg)
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := s.client.GetTopicAttributes(ctx, &awssns.GetTopicAttributesInput{TopicArn: &s.cfg.TopicARN})
	if err != nil {
		s.Close()
		return fmt.Errorf("look up sns topic: %w", explain("topic "+s.cfg.TopicARN, err))
	}
	if n, err := strconv.Atoi(out.Attributes["MaximumMessageSize"]); err == nil && n > 0 {
		s.limit = n
	}
	return nil
}

// Close implements driver.Sink.
func (s *Sink) Close() { hangUp(s.aws) }

// Check implements driver.Sink.
func (s *Sink) Check(ctx context.Context) error {
	defer s.Close()
	return s.Open(ctx)
}

// entry is one record as a message, with its place in the Write.
type entry struct {
	at    int
	group string
	size  int
	types.PublishBatchRequestEntry
}

// Write implements driver.Sink.
func (s *Sink) Write(ctx context.Context, recs []*driver.Record) []error {
	errs := make([]error, len(recs))
	entries := make([]entry, 0, len(recs))
	for i, r := range recs {
		e, err := s.entry(i, r)
		if err != nil {
			errs[i] = err
			continue
		}
		entries = append(entries, e)
	}
	if s.cfg.fifo() {
		s.inOrder(ctx, entries, errs)
	} else {
		s.parallel(ctx, entries, errs)
	}
	for _, err := range errs {
		if err != nil {
			return errs
		}
	}
	return nil
}

func (s *Sink) entry(i int, r *driver.Record) (entry, error) {
	attrs, body := encode(r.Event)
	e := entry{at: i, size: len(body)}
	e.Id, e.Message = aws.String(strconv.Itoa(i)), &body
	e.MessageAttributes = make(map[string]types.MessageAttributeValue, len(attrs))
	for _, a := range attrs {
		e.MessageAttributes[a.name] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: aws.String(a.value)}
		e.size += len(a.name) + len("String") + len(a.value)
	}
	if e.size > s.limit {
		return e, driver.Permanent("too-large", fmt.Errorf("publish to sns %s: message of %d bytes, the topic takes %d", s.cfg.topic(), e.size, s.limit))
	}
	if s.cfg.fifo() {
		e.group = groupID(r)
		sum := sha256.Sum256([]byte(r.Event.Key()))
		e.MessageGroupId, e.MessageDeduplicationId = &e.group, aws.String(hex.EncodeToString(sum[:]))
	}
	return e, nil
}

// groupID is the record's group; one that SNS would refuse is hashed.
func groupID(r *driver.Record) string {
	g := string(r.Key)
	for _, next := range [...]string{driver.Header(r.Event, event.HeaderKey), r.Event.Extensions[event.ExtPartitionKey], r.Path, r.Topic} {
		if g == "" {
			g = next
		}
	}
	valid := len(g) <= maxGroupID && g != "" && !strings.ContainsFunc(g, func(r rune) bool { return r <= ' ' || r > '~' })
	if !valid {
		sum := sha256.Sum256([]byte(g))
		g = hex.EncodeToString(sum[:])
	}
	return g
}

// parallel publishes without order, several calls at a time.
func (s *Sink) parallel(ctx context.Context, entries []entry, errs []error) {
	var calls sync.WaitGroup
	slots := make(chan struct{}, maxParallel)
	for len(entries) > 0 {
		n := s.fits(entries)
		batch := entries[:n]
		entries = entries[n:]
		slots <- struct{}{}
		calls.Go(func() {
			s.publish(ctx, batch, errs) // each call writes its own places of errs
			<-slots
		})
	}
	calls.Wait()
}

// fits is how many entries from the first on make one call.
func (s *Sink) fits(entries []entry) int {
	n, size := 0, 0
	for n < len(entries) && n < maxEntries && (n == 0 || size+entries[n].size <= s.limit) {
		size += entries[n].size
		n++
	}
	return n
}

// inOrder publishes call after call, at most one entry of a group in each. The
// entries behind one that is to be retried wait for it.
func (s *Sink) inOrder(ctx context.Context, entries []entry, errs []error) {
	held := map[string]error{}
	for len(entries) > 0 {
		var batch, rest []entry
		taken, size := map[string]bool{}, 0
		for _, e := range entries {
			err, waits := held[e.group]
			switch {
			case waits:
				errs[e.at] = fmt.Errorf("held behind an earlier message of its group: %w", err)
			case taken[e.group] || len(batch) == maxEntries || (len(batch) > 0 && size+e.size > s.limit):
				rest = append(rest, e)
				taken[e.group] = true // those behind it in the group wait too
			default:
				batch = append(batch, e)
				taken[e.group] = true
				size += e.size
			}
		}
		entries = rest
		if len(batch) == 0 {
			continue
		}
		s.publish(ctx, batch, errs)
		for _, e := range batch {
			if _, final := driver.Reason(errs[e.at]); errs[e.at] != nil && !final {
				held[e.group] = errs[e.at]
			}
		}
	}
}

// publish makes one call and notes the fate of each entry.
func (s *Sink) publish(ctx context.Context, batch []entry, errs []error) {
	in := &awssns.PublishBatchInput{TopicArn: &s.cfg.TopicARN, PublishBatchRequestEntries: make([]types.PublishBatchRequestEntry, len(batch))}
	for i, e := range batch {
		in.PublishBatchRequestEntries[i] = e.PublishBatchRequestEntry
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := s.client.PublishBatch(call, in)
	switch {
	case err != nil && blamesContent(err) && len(batch) > 1: // one of them: find it
		for i := range batch {
			s.publish(ctx, batch[i:i+1], errs)
		}
		return
	case err != nil:
		err = fmt.Errorf("publish to sns %s: %w", s.cfg.topic(), explain("topic "+s.cfg.TopicARN, err))
		if blamesContent(err) {
			err = driver.Permanent("rejected", err)
		}
		for _, e := range batch {
			errs[e.at] = err
		}
		return
	}
	fate := make(map[string]error, len(batch))
	for _, ok := range out.Successful {
		fate[aws.ToString(ok.Id)] = nil
	}
	for _, f := range out.Failed {
		code := aws.ToString(f.Code)
		err := fmt.Errorf("publish to sns %s: %s: %s", s.cfg.topic(), code, aws.ToString(f.Message))
		if f.SenderFault && !heals(code) {
			err = driver.Permanent("rejected", err)
		}
		fate[aws.ToString(f.Id)] = err
	}
	for _, e := range batch {
		err, told := fate[*e.Id]
		if !told { // only what SNS says it has is stored
			err = fmt.Errorf("publish to sns %s: the answer does not tell the fate of the message", s.cfg.topic())
		}
		errs[e.at] = err
	}
}

// heals reports whether an error that SNS blames on the sender is about the
// account and not about the message: too fast, no right, a key that is off.
func heals(code string) bool {
	return denied(code) || strings.Contains(code, "Throttl") || strings.Contains(code, "LimitExceeded") || strings.HasPrefix(code, "TooManyRequests")
}

// blamesContent reports whether AWS refuses a call for what a message holds.
func blamesContent(err error) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode() {
	case "InvalidParameter", "InvalidParameterValue", "ParameterValueInvalid", "ValidationException", "BatchRequestTooLong":
		return true
	}
	return false
}
