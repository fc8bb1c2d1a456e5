package snsfake_test

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"weft.dev/weft/bridge/sns/snsfake"
)

type rig struct {
	*snsfake.Server
	sns *sns.Client
	sqs *sqs.Client
	url string
}

func start(t *testing.T, cfg snsfake.Config) rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := snsfake.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	url := "http://" + l.Addr().String()
	ac := aws.Config{Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""), RetryMaxAttempts: 1}
	return rig{
		Server: s, url: url,
		sns: sns.NewFromConfig(ac, func(o *sns.Options) { o.BaseEndpoint = &url }),
		sqs: sqs.NewFromConfig(ac, func(o *sqs.Options) { o.BaseEndpoint = &url }),
	}
}

func (r rig) pipe(t *testing.T, topic, queue string, raw bool) (arn, queueURL string) {
	t.Helper()
	ctx := t.Context()
	top, err := r.sns.CreateTopic(ctx, &sns.CreateTopicInput{Name: &topic})
	if err != nil {
		t.Fatal(err)
	}
	q, err := r.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &queue})
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := r.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: q.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{"All"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.sns.Subscribe(ctx, &sns.SubscribeInput{
		TopicArn: top.TopicArn, Protocol: aws.String("sqs"), Endpoint: aws.String(attrs.Attributes["QueueArn"]),
		Attributes: map[string]string{"RawMessageDelivery": fmt.Sprint(raw)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return *top.TopicArn, *q.QueueUrl
}

func (r rig) receive(t *testing.T, url string, wait int32) []sqstypes.Message {
	t.Helper()
	out, err := r.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{
		QueueUrl: &url, MaxNumberOfMessages: 10, WaitTimeSeconds: wait,
		MessageAttributeNames: []string{"All"}, MessageSystemAttributeNames: []sqstypes.MessageSystemAttributeName{"All"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Messages
}

func text(v string) snstypes.MessageAttributeValue {
	return snstypes.MessageAttributeValue{DataType: aws.String("String"), StringValue: &v}
}

func TestRawDelivery(t *testing.T) {
	r := start(t, snsfake.Config{})
	arn, url := r.pipe(t, "orders", "orders-q", true)
	_, err := r.sns.Publish(t.Context(), &sns.PublishInput{
		TopicArn: &arn, Message: aws.String("größe <&> \"x\"\nü 🚚"),
		MessageAttributes: map[string]snstypes.MessageAttributeValue{
			"ce_id": text("1"), "bin": {DataType: aws.String("Binary"), BinaryValue: []byte{0, 1, 255}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := r.receive(t, url, 1)
	if len(got) != 1 {
		t.Fatalf("received %d messages, want 1", len(got))
	}
	m := got[0]
	if *m.Body != "größe <&> \"x\"\nü 🚚" || *m.MessageAttributes["ce_id"].StringValue != "1" || string(m.MessageAttributes["bin"].BinaryValue) != "\x00\x01\xff" {
		t.Errorf("message = %q %v", *m.Body, m.MessageAttributes)
	}
	sum := md5.Sum([]byte(*m.Body))
	if *m.MD5OfBody != hex.EncodeToString(sum[:]) || *m.MD5OfMessageAttributes == "" {
		t.Errorf("digests = %q %q", *m.MD5OfBody, *m.MD5OfMessageAttributes)
	}
	if m.Attributes["ApproximateReceiveCount"] != "1" {
		t.Errorf("attributes = %v", m.Attributes)
	}
	if _, err := r.sqs.DeleteMessage(t.Context(), &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: m.ReceiptHandle}); err != nil {
		t.Fatal(err)
	}
	if n := r.Stored("orders-q"); n != 0 {
		t.Errorf("stored after delete = %d", n)
	}
}

// The expected digest is one other SQS implementations test against.
func TestAttributeDigest(t *testing.T) {
	r := start(t, snsfake.Config{})
	q, err := r.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String("q")})
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: q.QueueUrl, MessageBody: aws.String("x"),
		MessageAttributes: map[string]sqstypes.MessageAttributeValue{"timestamp": {DataType: aws.String("Number"), StringValue: aws.String("1493147359900")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "235c5c510d26fb653d073faed50ae77c"; *out.MD5OfMessageAttributes != want {
		t.Errorf("digest = %s, want %s", *out.MD5OfMessageAttributes, want)
	}
}

func TestEnvelope(t *testing.T) {
	r := start(t, snsfake.Config{})
	arn, url := r.pipe(t, "orders", "orders-q", false)
	if _, err := r.sns.Publish(t.Context(), &sns.PublishInput{
		TopicArn: &arn, Message: aws.String(`{"a":"<b>"}`), Subject: aws.String("hi"),
		MessageAttributes: map[string]snstypes.MessageAttributeValue{"ce_id": text("7")},
	}); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Type, Message, Subject, TopicArn string
		MessageAttributes                map[string]struct{ Type, Value string }
	}
	if err := json.Unmarshal([]byte(*r.receive(t, url, 1)[0].Body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Type != "Notification" || doc.Message != `{"a":"<b>"}` || doc.Subject != "hi" || doc.TopicArn != arn || doc.MessageAttributes["ce_id"].Value != "7" {
		t.Errorf("envelope = %+v", doc)
	}
}

func TestPublishBatchFailsPerEntry(t *testing.T) {
	r := start(t, snsfake.Config{})
	arn, url := r.pipe(t, "orders", "orders-q", true)
	r.Fail(snsfake.Fault{Action: "PublishBatch", Entries: []int{1}, SenderFault: true, Code: "InvalidParameter"})
	batch := func(bodies ...string) (*sns.PublishBatchOutput, error) {
		in := &sns.PublishBatchInput{TopicArn: &arn}
		for i, b := range bodies {
			in.PublishBatchRequestEntries = append(in.PublishBatchRequestEntries, snstypes.PublishBatchRequestEntry{Id: aws.String(fmt.Sprint(i)), Message: aws.String(b)})
		}
		return r.sns.PublishBatch(t.Context(), in)
	}
	out, err := batch("a", "b", "c")
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Successful) != 2 || len(out.Failed) != 1 || *out.Failed[0].Id != "1" || !out.Failed[0].SenderFault {
		t.Fatalf("answer = %+v", out)
	}
	if n := r.Stored("orders-q"); n != 2 {
		t.Errorf("stored = %d, want 2", n)
	}
	out, err = batch("ok", "", "\x01")
	if err != nil || len(out.Failed) != 2 {
		t.Errorf("empty and control bodies: %+v, %v", out, err)
	}
	var many *snstypes.TooManyEntriesInBatchRequestException
	if _, err := batch(strings.Split(strings.Repeat("x,", 10)+"x", ",")...); !errors.As(err, &many) {
		t.Errorf("11 entries: %v", err)
	}
	var long *snstypes.BatchRequestTooLongException
	if _, err := batch(strings.Repeat("x", 200_000), strings.Repeat("x", 100_000)); !errors.As(err, &long) {
		t.Errorf("long batch: %v", err)
	}
	r.Fail(snsfake.Fault{Action: "PublishBatch", Times: 2, Status: 503, Code: "ServiceUnavailable"})
	for range 2 {
		if _, err := batch("a"); err == nil || !strings.Contains(err.Error(), "ServiceUnavailable") {
			t.Errorf("injected: %v", err)
		}
	}
	before := r.Stored("orders-q")
	r.Fail(snsfake.Fault{Action: "PublishBatch", AfterEffect: true})
	if _, err := batch("kept"); err == nil || r.Stored("orders-q") != before+1 {
		t.Errorf("cut after the effect: err %v, stored %d, want %d", err, r.Stored("orders-q"), before+1)
	}
	_ = url
}

func TestTooManyAttributesAreDiscardedByRawDelivery(t *testing.T) {
	r := start(t, snsfake.Config{})
	arn, _ := r.pipe(t, "orders", "orders-q", true)
	attrs := map[string]snstypes.MessageAttributeValue{}
	for i := range 11 {
		attrs[fmt.Sprintf("a%d", i)] = text("x")
	}
	if _, err := r.sns.Publish(t.Context(), &sns.PublishInput{TopicArn: &arn, Message: aws.String("x"), MessageAttributes: attrs}); err != nil {
		t.Fatal(err)
	}
	if n := r.Stored("orders-q"); n != 0 {
		t.Errorf("stored = %d, want 0", n)
	}
}

func TestVisibilityTimeout(t *testing.T) {
	r := start(t, snsfake.Config{})
	arn, url := r.pipe(t, "orders", "orders-q", true)
	if _, err := r.sns.Publish(t.Context(), &sns.PublishInput{TopicArn: &arn, Message: aws.String("x")}); err != nil {
		t.Fatal(err)
	}
	first := r.receive(t, url, 0)
	if again := r.receive(t, url, 0); len(again) != 0 {
		t.Fatalf("received a message in flight")
	}
	_, err := r.sqs.ChangeMessageVisibilityBatch(t.Context(), &sqs.ChangeMessageVisibilityBatchInput{
		QueueUrl: &url, Entries: []sqstypes.ChangeMessageVisibilityBatchRequestEntry{{Id: aws.String("a"), ReceiptHandle: first[0].ReceiptHandle, VisibilityTimeout: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	second := r.receive(t, url, 5) // long poll ends when the message comes back
	if took := time.Since(begin); len(second) != 1 || took < 500*time.Millisecond || took > 3*time.Second {
		t.Fatalf("received %d messages after %v", len(second), took)
	}
	if second[0].Attributes["ApproximateReceiveCount"] != "2" {
		t.Errorf("attributes = %v", second[0].Attributes)
	}
}

func TestLongPollWakesOnSend(t *testing.T) {
	r := start(t, snsfake.Config{})
	_, url := r.pipe(t, "orders", "orders-q", true)
	got := make(chan int, 1)
	go func() {
		out, err := r.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, WaitTimeSeconds: 20})
		if err != nil {
			got <- -1
			return
		}
		got <- len(out.Messages)
	}()
	for r.Calls("ReceiveMessage") == 0 { // the poll has arrived
		if t.Context().Err() != nil {
			t.Fatal("no poll")
		}
	}
	if _, err := r.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("x")}); err != nil {
		t.Fatal(err)
	}
	select {
	case n := <-got:
		if n != 1 {
			t.Errorf("received %d", n)
		}
	case <-time.After(5 * time.Second):
		t.Error("the long poll slept through a message")
	}
}

func TestFIFO(t *testing.T) {
	r := start(t, snsfake.Config{})
	arn, url := r.pipe(t, "orders.fifo", "orders-q.fifo", true)
	for i, m := range []struct{ group, dedup string }{{"a", "1"}, {"a", "2"}, {"b", "3"}, {"a", "1"}} {
		if _, err := r.sns.Publish(t.Context(), &sns.PublishInput{TopicArn: &arn, Message: aws.String(fmt.Sprint(i)), MessageGroupId: &m.group, MessageDeduplicationId: &m.dedup}); err != nil {
			t.Fatal(err)
		}
	}
	one, err := r.sqs.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 1})
	if err != nil || len(one.Messages) != 1 || *one.Messages[0].Body != "0" {
		t.Fatalf("first = %+v, %v", one, err)
	}
	rest := r.receive(t, url, 0)
	if len(rest) != 1 || *rest[0].Body != "2" {
		t.Fatalf("while group a is in flight: %d messages", len(rest))
	}
	if _, err := r.sqs.DeleteMessageBatch(t.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: []sqstypes.DeleteMessageBatchRequestEntry{{Id: aws.String("x"), ReceiptHandle: one.Messages[0].ReceiptHandle}}}); err != nil {
		t.Fatal(err)
	}
	if next := r.receive(t, url, 0); len(next) != 1 || *next[0].Body != "1" {
		t.Errorf("after the delete: %d messages (the repeated dedupe id is not stored)", len(next))
	}
	if _, err := r.sns.Publish(t.Context(), &sns.PublishInput{TopicArn: &arn, Message: aws.String("x")}); err == nil {
		t.Error("a FIFO topic took a message without a group")
	}
}

func TestErrorsAreTyped(t *testing.T) {
	r := start(t, snsfake.Config{AccessKey: "key", MaxStored: 1})
	var gone *sqstypes.QueueDoesNotExist
	if _, err := r.sqs.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("none")}); !errors.As(err, &gone) {
		t.Errorf("unknown queue: %v", err)
	}
	var absent *snstypes.NotFoundException
	if _, err := r.sns.GetTopicAttributes(t.Context(), &sns.GetTopicAttributesInput{TopicArn: aws.String(r.TopicARN("none"))}); !errors.As(err, &absent) {
		t.Errorf("unknown topic: %v", err)
	}
	_, url := r.pipe(t, "t", "q", true)
	for i, want := range []string{"", "OverLimit"} {
		_, err := r.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String("x")})
		if (want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("send %d: %v, want %q", i, err, want)
		}
	}
	if _, err := r.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &url, MessageBody: aws.String(strings.Repeat("x", 262145))}); err == nil {
		t.Error("a message over 256 KiB was taken")
	}
	other := sqs.New(sqs.Options{Region: "us-east-1", BaseEndpoint: &r.url, RetryMaxAttempts: 1, Credentials: credentials.NewStaticCredentialsProvider("other", "s", "")})
	if _, err := other.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url}); err == nil || !strings.Contains(err.Error(), "security token") {
		t.Errorf("wrong key: %v", err)
	}
	topics, err := r.sns.ListTopics(t.Context(), &sns.ListTopicsInput{})
	if err != nil || len(topics.Topics) != 1 {
		t.Errorf("topics = %v, %v", topics, err)
	}
}
