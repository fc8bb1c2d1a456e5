// Package snsfake is an SNS and SQS service in the process: it speaks the two
// real AWS protocols (SNS: query and XML, SQS: JSON 1.0) well enough for
// aws-sdk-go-v2 and the aws command line, so that a demo or a test needs no AWS
// account. It keeps everything in memory, checks no signature, and is not for
// production. No compatibility promise.
package snsfake

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits of the service, the same as at AWS unless said otherwise.
const (
	maxMessageSize   = 262144 // bytes of one message with its attributes, and of a whole batch
	maxBatchEntries  = 10
	maxAttributes    = 10   // more than these are discarded by raw delivery to SQS
	maxTopics        = 1000 // lower than AWS: memory
	maxQueues        = 1000
	maxSubscriptions = 1000
	maxRequestBody   = 4 << 20 // form encoding triples the size of some bodies
	dedupeWindow     = 5 * time.Minute
	maxDedupeIDs     = 100_000     // a topic or queue; the oldest is forgotten first
	defaultMaxStored = 100_000     // messages of one queue
	shutdownGrace    = time.Second // then connections are cut
)

// Config of a Server; every field may be zero.
type Config struct {
	Region    string           // default us-east-1
	Account   string           // default 000000000000
	AccessKey string           // when set, a call signed by another access key is refused
	MaxStored int              // messages a queue keeps before it refuses more; default 100,000
	Now       func() time.Time // default time.Now
}

// Server is one region of SNS and SQS on one HTTP endpoint.
type Server struct {
	cfg Config

	mu     sync.Mutex // guards everything below
	topics map[string]*topic
	queues map[string]*queue
	faults []*Fault
	calls  map[string]int
}

// New returns a server without topics and queues.
func New(cfg Config) *Server {
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Account == "" {
		cfg.Account = "000000000000"
	}
	if cfg.MaxStored == 0 {
		cfg.MaxStored = defaultMaxStored
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Server{cfg: cfg, topics: map[string]*topic{}, queues: map[string]*queue{}, calls: map[string]int{}}
}

// Serve answers on l until ctx ends and closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler:           s,
		BaseContext:       func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: 10 * time.Second,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve sns and sqs: %w", err)
	case <-ctx.Done():
	}
	cancel() // ends long polls
	grace, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer stop()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if failed := <-done; err == nil && !errors.Is(failed, http.ErrServerClosed) {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("stop sns and sqs: %w", err)
	}
	return nil
}

// ServeHTTP answers one call: SQS when X-Amz-Target names it, else SNS.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)
	if target, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS."); ok {
		s.serveSQS(w, r, target)
		return
	}
	s.serveSNS(w, r)
}

// TopicARN is the name a topic has or would have.
func (s *Server) TopicARN(name string) string {
	return fmt.Sprintf("arn:aws:sns:%s:%s:%s", s.cfg.Region, s.cfg.Account, name)
}

// QueueARN is the name a queue has or would have.
func (s *Server) QueueARN(name string) string {
	return fmt.Sprintf("arn:aws:sqs:%s:%s:%s", s.cfg.Region, s.cfg.Account, name)
}

// QueueURL is the address of a queue on a server that clients reach as endpoint.
func (s *Server) QueueURL(endpoint, name string) string {
	return strings.TrimSuffix(endpoint, "/") + "/" + s.cfg.Account + "/" + name
}

// Pipe makes a topic and a queue unless they exist, and subscribes the queue.
// Names ending in .fifo make FIFO ones.
func (s *Server) Pipe(topicName, queueName string, raw bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.createTopic(topicName, nil)
	if err != nil {
		return err
	}
	if _, err := s.createQueue(queueName, nil); err != nil {
		return err
	}
	_, err = s.subscribe(t, s.QueueARN(queueName), map[string]string{"RawMessageDelivery": fmt.Sprint(raw)})
	return err
}

// Stored counts the messages of a queue, the ones in flight included.
func (s *Server) Stored(queueName string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, ok := s.queues[queueName]
	if !ok {
		return 0
	}
	return q.stored()
}

// Calls counts the calls of an action so far, the failed ones included.
func (s *Server) Calls(action string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[action]
}

// Actions lists the actions called so far.
func (s *Server) Actions() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.calls))
}

// authorized says whether the call's access key is the configured one.
func (s *Server) authorized(r *http.Request) bool {
	return s.cfg.AccessKey == "" || strings.Contains(r.Header.Get("Authorization"), "Credential="+s.cfg.AccessKey+"/")
}

// apiError is an error with its code in both protocols.
type apiError struct {
	Status  int
	Code    string // as SNS and the query protocol name it
	Type    string // SQS JSON shape, when it differs from Code
	Message string
}

func (e *apiError) Error() string { return e.Code + ": " + e.Message }

func badRequest(code, format string, args ...any) *apiError {
	return &apiError{Status: http.StatusBadRequest, Code: code, Message: fmt.Sprintf(format, args...)}
}

func asAPI(err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	return &apiError{Status: http.StatusInternalServerError, Code: "InternalError", Message: err.Error()}
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
