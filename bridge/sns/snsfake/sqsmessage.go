package snsfake

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const maxInFlight = 120_000 // messages received and not deleted, as at AWS

type sqsSendEntry struct {
	Id                     string
	MessageBody            string
	MessageAttributes      map[string]attribute
	MessageGroupId         string
	MessageDeduplicationId string
}

func (e sqsSendEntry) message() message {
	return message{ID: newID(), Body: e.MessageBody, Attributes: e.MessageAttributes, Group: e.MessageGroupId, Dedup: e.MessageDeduplicationId}
}

type sqsSent struct {
	Id                     string `json:",omitempty"`
	MessageId              string
	MD5OfMessageBody       string
	MD5OfMessageAttributes string `json:",omitempty"`
	SequenceNumber         string `json:",omitempty"`
}

// send stores one message. The caller holds the lock.
func (s *Server) send(q *queue, e sqsSendEntry) (sqsSent, error) {
	m := e.message()
	if err := m.check("InvalidParameterValue"); err != nil {
		return sqsSent{}, err
	}
	if len(m.Attributes) > maxAttributes {
		return sqsSent{}, badRequest("InvalidParameterValue", "Number of message attributes [%d] exceeds the allowed maximum [10].", len(m.Attributes))
	}
	seq, err := q.push(m, s.cfg.Now(), s.cfg.MaxStored)
	if err != nil {
		return sqsSent{}, err
	}
	out := sqsSent{Id: e.Id, MessageId: m.ID, MD5OfMessageBody: bodyMD5(m.Body), MD5OfMessageAttributes: attributesMD5(m.Attributes)}
	if q.fifo {
		out.SequenceNumber = sequence(seq)
	}
	return out, nil
}

func sequence(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	return strings.Repeat("0", max(0, 20-len(digits))) + digits
}

func (s *Server) sqsSend(_ context.Context, c sqsCall) (any, error) {
	var in struct {
		QueueUrl string
		sqsSendEntry
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	in.Id = ""
	return s.send(q, in.sqsSendEntry)
}

type batchOut struct {
	Successful []any
	Failed     []failure
}

// each runs do for every entry of a batch after the checks all batches share.
func each[T any](c sqsCall, entries []T, id func(T) string, do func(T) (any, error)) (any, error) {
	if err := checkBatch(entries, id, "AWS.SimpleQueueService."); err != nil {
		return nil, err
	}
	out := batchOut{Successful: []any{}, Failed: []failure{}}
	for i, e := range entries {
		if f, ok := c.fault.entry(i); ok {
			f.ID = id(e)
			out.Failed = append(out.Failed, f)
			continue
		}
		ok, err := do(e)
		if err != nil {
			api := asAPI(err)
			out.Failed = append(out.Failed, failure{ID: id(e), Code: api.Code, Message: api.Message, SenderFault: api.Status < 500})
			continue
		}
		out.Successful = append(out.Successful, ok)
	}
	return out, nil
}

// checkBatch applies the batch rules both services share; prefix is what the
// error codes of SQS begin with.
func checkBatch[T any](entries []T, id func(T) string, prefix string) error {
	fail := func(shape, text string) error {
		return &apiError{Status: http.StatusBadRequest, Code: prefix + shape, Type: shape, Message: text}
	}
	if len(entries) == 0 {
		return fail("EmptyBatchRequest", "There should be at least one entry in the request.")
	}
	if len(entries) > maxBatchEntries {
		return fail("TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10. You have sent "+strconv.Itoa(len(entries))+".")
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if !named(id(e), 80, ".") {
			return fail("InvalidBatchEntryId", "A batch entry id can only contain alphanumeric characters, hyphens and underscores.")
		}
		if seen[id(e)] {
			return fail("BatchEntryIdsNotDistinct", "Id "+id(e)+" repeated.")
		}
		seen[id(e)] = true
	}
	return nil
}

func (s *Server) sqsSendBatch(_ context.Context, c sqsCall) (any, error) {
	var in struct {
		QueueUrl string
		Entries  []sqsSendEntry
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	total := 0
	for _, e := range in.Entries {
		m := e.message()
		total += m.size()
	}
	if total > maxMessageSize {
		return nil, &apiError{Status: http.StatusBadRequest, Code: "AWS.SimpleQueueService.BatchRequestTooLong", Type: "BatchRequestTooLong", Message: "Batch requests cannot be longer than 262144 bytes."}
	}
	return each(c, in.Entries, func(e sqsSendEntry) string { return e.Id }, func(e sqsSendEntry) (any, error) { return s.send(q, e) })
}

type sqsReceiveIn struct {
	QueueUrl                    string
	MaxNumberOfMessages         int
	VisibilityTimeout           *int
	WaitTimeSeconds             *int
	AttributeNames              []string
	MessageSystemAttributeNames []string
	MessageAttributeNames       []string
}

func (s *Server) sqsReceive(ctx context.Context, c sqsCall) (any, error) {
	in := sqsReceiveIn{MaxNumberOfMessages: 1}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	if in.MaxNumberOfMessages < 1 || in.MaxNumberOfMessages > maxBatchEntries {
		return nil, badRequest("InvalidParameterValue", "Value %d for parameter MaxNumberOfMessages is invalid. Reason: Must be between 1 and 10.", in.MaxNumberOfMessages)
	}
	var deadline time.Time
	for {
		taken, again, err := s.take(in, &deadline)
		if err != nil || len(taken) > 0 || again == nil {
			return map[string]any{"Messages": taken}, err
		}
		if !again(ctx) {
			return map[string]any{}, nil
		}
	}
}

// take receives what is visible now. With nothing there and time left it returns
// a function that waits until that may change.
func (s *Server) take(in sqsReceiveIn, deadline *time.Time) ([]sqsReceived, func(context.Context) bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queue(in.QueueUrl)
	if err != nil {
		return nil, nil, err
	}
	now := s.cfg.Now()
	if deadline.IsZero() {
		wait := q.wait
		if in.WaitTimeSeconds != nil {
			wait = time.Duration(min(*in.WaitTimeSeconds, 20)) * time.Second
		}
		*deadline = now.Add(wait)
	}
	visibility := q.visibility
	if in.VisibilityTimeout != nil {
		visibility = time.Duration(*in.VisibilityTimeout) * time.Second
	}
	if len(q.receipts) >= maxInFlight {
		return nil, nil, &apiError{Status: http.StatusForbidden, Code: "OverLimit", Message: "too many messages in flight"}
	}
	if got := q.receive(in.MaxNumberOfMessages, visibility, now); len(got) > 0 {
		out := make([]sqsReceived, 0, len(got))
		for _, m := range got {
			out = append(out, received(m, in, q.fifo))
		}
		return out, nil, nil
	}
	left := deadline.Sub(now)
	if left <= 0 {
		return nil, nil, nil
	}
	if at, ok := q.next(); ok {
		left = min(left, max(at.Sub(now), time.Millisecond))
	}
	changed := q.changed
	return nil, func(ctx context.Context) bool {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		case <-timer.C:
		}
		return true
	}, nil
}

type sqsReceived struct {
	MessageId              string
	ReceiptHandle          string
	Body                   string
	MD5OfBody              string
	MD5OfMessageAttributes string               `json:",omitempty"`
	Attributes             map[string]string    `json:",omitempty"`
	MessageAttributes      map[string]attribute `json:",omitempty"`
}

func received(m *message, in sqsReceiveIn, fifo bool) sqsReceived {
	out := sqsReceived{MessageId: m.ID, ReceiptHandle: m.receipt, Body: m.Body, MD5OfBody: bodyMD5(m.Body)}
	system := map[string]string{
		"SenderId":                         "AIDAFAKE",
		"SentTimestamp":                    strconv.FormatInt(m.sent.UnixMilli(), 10),
		"ApproximateReceiveCount":          strconv.Itoa(m.receives),
		"ApproximateFirstReceiveTimestamp": strconv.FormatInt(m.first.UnixMilli(), 10),
	}
	if fifo {
		system["MessageGroupId"], system["MessageDeduplicationId"], system["SequenceNumber"] = m.Group, m.Dedup, sequence(m.seq)
	}
	out.Attributes = chosen(system, append(in.AttributeNames, in.MessageSystemAttributeNames...))
	out.MessageAttributes = chosen(m.Attributes, in.MessageAttributeNames)
	out.MD5OfMessageAttributes = attributesMD5(out.MessageAttributes)
	return out
}

// chosen keeps the entries a list of names, "All" or "prefix.*" asks for.
func chosen[V any](all map[string]V, names []string) map[string]V {
	out := map[string]V{}
	for key, v := range all {
		for _, n := range names {
			prefix, wild := strings.CutSuffix(n, ".*")
			if n == "All" || n == key || (wild && (prefix == "" || strings.HasPrefix(key, prefix))) {
				out[key] = v
			}
		}
	}
	return out
}

type sqsReceipt struct {
	Id                string
	ReceiptHandle     string
	VisibilityTimeout int
}

func (s *Server) sqsDelete(_ context.Context, c sqsCall) (any, error) {
	return s.oneReceipt(c, func(q *queue, r sqsReceipt) error { return q.remove(r.ReceiptHandle) })
}

func (s *Server) sqsDeleteBatch(_ context.Context, c sqsCall) (any, error) {
	return s.receipts(c, func(q *queue, r sqsReceipt) error { return q.remove(r.ReceiptHandle) })
}

func (s *Server) sqsVisibility(_ context.Context, c sqsCall) (any, error) {
	return s.oneReceipt(c, s.showReceipt)
}

func (s *Server) sqsVisibilityBatch(_ context.Context, c sqsCall) (any, error) {
	return s.receipts(c, s.showReceipt)
}

func (s *Server) showReceipt(q *queue, r sqsReceipt) error {
	if r.VisibilityTimeout < 0 || r.VisibilityTimeout > 43200 {
		return badRequest("InvalidParameterValue", "Value %d for parameter VisibilityTimeout is invalid.", r.VisibilityTimeout)
	}
	return q.show(r.ReceiptHandle, time.Duration(r.VisibilityTimeout)*time.Second, s.cfg.Now())
}

func (s *Server) oneReceipt(c sqsCall, do func(*queue, sqsReceipt) error) (any, error) {
	var in struct {
		QueueUrl string
		sqsReceipt
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	return struct{}{}, do(q, in.sqsReceipt)
}

func (s *Server) receipts(c sqsCall, do func(*queue, sqsReceipt) error) (any, error) {
	var in struct {
		QueueUrl string
		Entries  []sqsReceipt
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	return each(c, in.Entries, func(r sqsReceipt) string { return r.Id }, func(r sqsReceipt) (any, error) {
		return map[string]string{"Id": r.Id}, do(q, r)
	})
}
