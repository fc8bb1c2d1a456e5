package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/wire"
)

// ErrUnavailable: the mesh cannot take or serve it now; the same call may
// succeed later.
var ErrUnavailable = errors.New("mesh unavailable")

// JetStream's error codes that decide what happens to a publish.
const (
	codeNotLeader     = 10009 // no suitable peer, cluster not available
	codeNoMessage     = 10037
	codeStreamMissing = 10059
	codeMsgTooLarge   = 10054
	codeSealed        = 10109

	codeWrongLast         = 10071
	codeWrongLastConstant = 10164
	codeBatchIncomplete   = 10176
	codeBatchDuplicate    = 10201
	codeBatchesInFlight   = 10210
)

// apiError is the error part of a PubAck.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

// refusal tells whose fault the server's refusal of one message is.
func refusal(e *apiError) error {
	switch {
	case e.ErrCode == codeMsgTooLarge:
		return fmt.Errorf("%w: %w", event.TooLarge("data", "an event that fits the stream's message limit", 0), e)
	case e.ErrCode == codeSealed || e.Code >= 500 || e.ErrCode == codeStreamMissing || e.ErrCode == codeNotLeader:
		return fmt.Errorf("%w: %w", ErrUnavailable, e)
	default:
		return fmt.Errorf("%w: %w", event.ErrRejected, e)
	}
}

// sendError maps an error of the connection. Again tells whether to retry.
func sendError(err error) (mapped error, again bool) {
	switch {
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, wire.ErrTooLarge):
		return fmt.Errorf("%w: %w", event.TooLarge("data", "an event that fits the server's max_payload", 0), err), false
	case errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, wire.ErrBadSubject), errors.Is(err, wire.ErrBadHeader):
		return fmt.Errorf("%w: %w", event.ErrRejected, err), false
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return fmt.Errorf("%w: %w", ErrUnavailable, err), false
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err), true
	}
}

// unavailable wraps an error of the JetStream API for callers that branch.
func unavailable(operation string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return fmt.Errorf("%s: %w: %w", operation, ErrUnavailable, err)
}
