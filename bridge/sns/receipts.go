package sns

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"weft.dev/weft/internal/run"
)

// hold keeps messages hidden until they are deleted or given back.
func (s *Source) hold(receipts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range receipts {
		s.held[r] = struct{}{}
	}
}

func (s *Source) release(receipts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range receipts {
		delete(s.held, r)
	}
}

// extend renews the visibility timeout of what is held at half of its time.
func (s *Source) extend(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Visibility.Std() / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		receipts := make([]string, 0, len(s.held))
		for r := range s.held {
			receipts = append(receipts, r)
		}
		s.mu.Unlock()
		s.show(ctx, receipts, s.cfg.Visibility.Std())
	}
}

// giveBack makes messages visible at once, for whoever reads next.
func (s *Source) giveBack(ctx context.Context, receipts []string) {
	s.release(receipts)
	s.show(ctx, receipts, 0)
}

// show sets the visibility timeout. A failure is no loss: the message comes
// again, and the mesh knows its id.
func (s *Source) show(ctx context.Context, receipts []string, after time.Duration) {
	for part := range slices.Chunk(receipts, maxEntries) {
		in := &sqs.ChangeMessageVisibilityBatchInput{QueueUrl: &s.cfg.QueueURL}
		for i, r := range part {
			in.Entries = append(in.Entries, types.ChangeMessageVisibilityBatchRequestEntry{
				Id: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String(r), VisibilityTimeout: int32(after / time.Second),
			})
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		if _, err := s.client.ChangeMessageVisibilityBatch(call, in); err != nil {
			s.Log.WarnContext(ctx, "sqs visibility not changed", "err", err)
		}
		cancel()
	}
}

// remove deletes stored messages in batches until the channel is closed.
func (s *Source) remove(ctx context.Context) {
	for first := range s.deletes {
		part := append(make([]string, 0, maxEntries), first)
	more:
		for len(part) < maxEntries {
			select {
			case r, ok := <-s.deletes:
				if !ok {
					break more
				}
				part = append(part, r)
			default:
				break more
			}
		}
		s.removeSome(ctx, part)
	}
}

// removeSome tries a few times; what stays comes again and is known by its id.
func (s *Source) removeSome(ctx context.Context, part []string) {
	defer s.release(part)
	left := part
	var err error
	for range deleteTries {
		in := &sqs.DeleteMessageBatchInput{QueueUrl: &s.cfg.QueueURL}
		for i, r := range left {
			in.Entries = append(in.Entries, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: aws.String(r)})
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		var out *sqs.DeleteMessageBatchOutput
		out, err = s.client.DeleteMessageBatch(call, in)
		cancel()
		if err == nil {
			again := make([]string, 0, len(out.Failed))
			for _, f := range out.Failed {
				if i, bad := strconv.Atoi(aws.ToString(f.Id)); bad == nil && i >= 0 && i < len(left) && !f.SenderFault {
					again = append(again, left[i])
				}
			}
			if left = again; len(left) == 0 {
				return
			}
		}
		run.Pause(ctx, retryMin)
	}
	s.Log.WarnContext(ctx, "sqs messages not deleted", "messages", len(left), "err", err)
}

func encode64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// lastPart is the name at the end of an ARN.
func lastPart(arn string) string { return arn[strings.LastIndexByte(arn, ':')+1:] }
