package snsfake

import (
	"context"
	"encoding/json"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// sqsAction answers one SQS call. It runs without the lock.
type sqsAction func(s *Server, ctx context.Context, c sqsCall) (any, error)

// sqsCall is one SQS request.
type sqsCall struct {
	host  string // as the client wrote it, for queue addresses
	body  []byte
	fault Fault
}

var sqsActions = map[string]sqsAction{
	"CreateQueue":                  (*Server).sqsCreateQueue,
	"GetQueueUrl":                  (*Server).sqsQueueURL,
	"ListQueues":                   (*Server).sqsListQueues,
	"GetQueueAttributes":           (*Server).sqsAttributes,
	"SetQueueAttributes":           (*Server).sqsSetAttributes,
	"PurgeQueue":                   (*Server).sqsPurge,
	"SendMessage":                  (*Server).sqsSend,
	"SendMessageBatch":             (*Server).sqsSendBatch,
	"ReceiveMessage":               (*Server).sqsReceive,
	"DeleteMessage":                (*Server).sqsDelete,
	"DeleteMessageBatch":           (*Server).sqsDeleteBatch,
	"ChangeMessageVisibility":      (*Server).sqsVisibility,
	"ChangeMessageVisibilityBatch": (*Server).sqsVisibilityBatch,
}

func (s *Server) serveSQS(w http.ResponseWriter, r *http.Request, name string) {
	out, fault, err := s.callSQS(r, name)
	if err == nil && fault.AfterEffect {
		cut()
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.Header().Set("X-Amzn-Requestid", newID())
	if err != nil {
		e := asAPI(err)
		shape := e.Type
		if shape == "" {
			shape = e.Code
		}
		fault := "Sender"
		if e.Status >= 500 {
			fault = "Receiver"
		}
		w.Header().Set("X-Amzn-Query-Error", e.Code+";"+fault)
		w.WriteHeader(e.Status)
		out = map[string]string{"__type": "com.amazonaws.sqs#" + shape, "message": e.Message}
	}
	_ = json.NewEncoder(w).Encode(out) // the client has gone; nothing to tell
}

func (s *Server) callSQS(r *http.Request, name string) (any, Fault, error) {
	f, hit := s.begin(name)
	if !s.authorized(r) {
		return nil, f, &apiError{Status: http.StatusForbidden, Code: "InvalidClientTokenId", Message: "The security token included in the request is invalid."}
	}
	if hit {
		if err := f.refuse(r.Context()); err != nil {
			return nil, f, err
		}
	}
	act, ok := sqsActions[name]
	if !ok {
		return nil, f, badRequest("UnsupportedOperation", "%s is not part of this service", name)
	}
	var body json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return nil, f, badRequest("SerializationException", "body: %v", err)
	}
	out, err := act(s, r.Context(), sqsCall{host: r.Host, body: body, fault: f})
	return out, f, err
}

func (c sqsCall) decode(in any) error {
	if err := json.Unmarshal(c.body, in); err != nil {
		return badRequest("SerializationException", "body: %v", err)
	}
	return nil
}

// queue finds a queue by its URL. The caller holds the lock.
func (s *Server) queue(url string) (*queue, error) {
	q, ok := s.queues[path.Base(url)]
	if !ok {
		return nil, &apiError{
			Status: http.StatusBadRequest, Code: "AWS.SimpleQueueService.NonExistentQueue", Type: "QueueDoesNotExist",
			Message: "The specified queue does not exist.",
		}
	}
	return q, nil
}

func (s *Server) createQueue(name string, attrs map[string]string) (*queue, error) {
	if !validName(name) {
		return nil, badRequest("InvalidParameterValue", "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	q, ok := s.queues[name]
	if !ok {
		if len(s.queues) >= maxQueues {
			return nil, badRequest("OverLimit", "more than %d queues", maxQueues)
		}
		q = newQueue(name, s.cfg.Now())
	}
	if err := q.set(attrs); err != nil {
		return nil, err
	}
	s.queues[name] = q
	return q, nil
}

func (s *Server) sqsCreateQueue(_ context.Context, c sqsCall) (any, error) {
	var in struct {
		QueueName  string
		Attributes map[string]string
	}
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.createQueue(in.QueueName, in.Attributes); err != nil {
		return nil, err
	}
	return map[string]string{"QueueUrl": s.QueueURL("http://"+c.host, in.QueueName)}, nil
}

func (s *Server) sqsQueueURL(_ context.Context, c sqsCall) (any, error) {
	var in struct{ QueueName string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.queue(in.QueueName); err != nil {
		return nil, err
	}
	return map[string]string{"QueueUrl": s.QueueURL("http://"+c.host, in.QueueName)}, nil
}

func (s *Server) sqsListQueues(_ context.Context, c sqsCall) (any, error) {
	var in struct{ QueueNamePrefix string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	urls := []string{}
	for name := range s.queues {
		if strings.HasPrefix(name, in.QueueNamePrefix) {
			urls = append(urls, s.QueueURL("http://"+c.host, name))
		}
	}
	return map[string][]string{"QueueUrls": urls}, nil
}

func (s *Server) sqsAttributes(_ context.Context, c sqsCall) (any, error) {
	var in struct{ QueueUrl string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	q.expire(s.cfg.Now())
	seconds := func(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }
	attrs := map[string]string{
		"QueueArn":                              s.QueueARN(q.name),
		"ApproximateNumberOfMessages":           strconv.Itoa(q.ready.Len()),
		"ApproximateNumberOfMessagesNotVisible": strconv.Itoa(len(q.receipts)),
		"ApproximateNumberOfMessagesDelayed":    strconv.Itoa(len(q.flight) - len(q.receipts)),
		"VisibilityTimeout":                     seconds(q.visibility),
		"ReceiveMessageWaitTimeSeconds":         seconds(q.wait),
		"DelaySeconds":                          seconds(q.delay),
		"MaximumMessageSize":                    strconv.Itoa(maxMessageSize),
		"CreatedTimestamp":                      strconv.FormatInt(q.created.Unix(), 10),
	}
	if q.fifo {
		attrs["FifoQueue"] = "true"
		attrs["ContentBasedDeduplication"] = strconv.FormatBool(q.byContent)
	}
	return map[string]any{"Attributes": attrs}, nil
}

func (s *Server) sqsSetAttributes(_ context.Context, c sqsCall) (any, error) {
	var in struct {
		QueueUrl   string
		Attributes map[string]string
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
	return struct{}{}, q.set(in.Attributes)
}

func (s *Server) sqsPurge(_ context.Context, c sqsCall) (any, error) {
	var in struct{ QueueUrl string }
	if err := c.decode(&in); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queue(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	fresh := newQueue(q.name, q.created)
	fresh.visibility, fresh.wait, fresh.delay, fresh.byContent = q.visibility, q.wait, q.delay, q.byContent
	s.queues[q.name] = fresh
	q.wake()
	return struct{}{}, nil
}
