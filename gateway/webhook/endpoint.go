package webhook

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"weft.dev/weft/event"
	"weft.dev/weft/gateway/webhook/egress"
	"weft.dev/weft/gateway/webhook/sign"
	"weft.dev/weft/internal/conf"
)

// Limits of an endpoint's definition.
const (
	maxSubjects    = 32
	maxHeaders     = 20
	maxHeaderBytes = 4 << 10
	maxDescription = 256
	maxTimeout     = 30 * time.Second
	minTimeout     = time.Second
	maxGrace       = 7 * 24 * time.Hour
	defaultGrace   = 24 * time.Hour
	maxKeys        = 5 // active keys of one version
)

// Mode is the form in which events are sent.
type Mode string

// The CloudEvents modes of a request.
const (
	Structured Mode = "structured"
	Binary     Mode = "binary"
)

// Spec is what a client says about an endpoint.
type Spec struct {
	URL         string            `json:"url"`
	Subjects    []string          `json:"subjects"`
	Description string            `json:"description,omitempty"`
	Mode        Mode              `json:"mode"`
	Headers     map[string]string `json:"headers,omitempty"` // sent with each request; values are never shown
	Timeout     conf.Duration     `json:"timeout"`
	Signatures  []sign.Version    `json:"signatures"`
	Traceparent bool              `json:"traceparent"` // send the event's trace context
	Disabled    bool              `json:"disabled"`
}

// key is a signing key at rest. The value is readable by whoever can read the
// site's store.
type key struct {
	Text  string    `json:"text"`
	Until time.Time `json:"until,omitzero"` // zero: the current key
}

// replay asks the engine to move the cursor.
type replay struct {
	ID    string `json:"id"`
	After uint64 `json:"after"`
}

// endpoint is what is stored; it is never changed in place.
type endpoint struct {
	ID string `json:"id"`
	Spec
	Keys    []key     `json:"keys"`
	After   uint64    `json:"after"` // the stream's last sequence when it was created
	Replay  *replay   `json:"replay,omitempty"`
	Enabled int       `json:"enabled,omitempty"` // counts the times an operator enabled it again
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`

	revision uint64     // of the store's entry
	signers  []sign.Key // Keys, parsed
}

func newID() string {
	var b [10]byte
	_, _ = rand.Read(b[:]) // never fails
	return "wh_" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

func decodeEndpoint(data []byte, revision uint64) (*endpoint, error) {
	ep := &endpoint{revision: revision}
	if err := json.Unmarshal(data, ep); err != nil {
		return nil, fmt.Errorf("decode webhook endpoint: %w", err)
	}
	for _, k := range ep.Keys {
		parsed, err := sign.Parse(k.Text)
		if err != nil {
			return nil, fmt.Errorf("decode webhook endpoint %s: %w", ep.ID, err)
		}
		ep.signers = append(ep.signers, parsed)
	}
	return ep, nil
}

// keysAt are the keys that sign at the given time: those of the endpoint's
// versions that have not run out.
func (ep *endpoint) keysAt(now time.Time) []sign.Key {
	keys := make([]sign.Key, 0, len(ep.signers))
	for i, k := range ep.signers {
		if until := ep.Keys[i].Until; (until.IsZero() || now.Before(until)) && slices.Contains(ep.Signatures, k.Version()) {
			keys = append(keys, k)
		}
	}
	return keys
}

// current is the newest key of a version.
func (ep *endpoint) current(v sign.Version) (sign.Key, bool) {
	for i, k := range ep.signers {
		if k.Version() == v && ep.Keys[i].Until.IsZero() {
			return k, true
		}
	}
	return sign.Key{}, false
}

// rotate replaces the keys of a version; the old ones go on signing for grace.
func (ep *endpoint) rotate(next sign.Key, grace time.Duration, now time.Time) {
	kept := []key{{Text: next.Text()}}
	same := 1
	for i, k := range ep.Keys {
		if ep.signers[i].Version() == next.Version() {
			if k.Until.IsZero() || k.Until.After(now.Add(grace)) {
				k.Until = now.Add(grace)
			}
			if !k.Until.After(now) || same == maxKeys {
				continue
			}
			same++
		}
		kept = append(kept, k)
	}
	ep.Keys = kept
	ep.signers = nil
	for _, k := range kept {
		parsed, err := sign.Parse(k.Text)
		if err != nil {
			continue // was parsed when it came in
		}
		ep.signers = append(ep.signers, parsed)
	}
}

// check completes the spec and names the first field at fault.
func (s *Spec) check(p egress.Policy, cfg Config) error {
	if s.URL == "" {
		return event.Reject("url", "the address to send to, such as https://partner.example/hooks")
	}
	if err := p.CheckURL(s.URL); err != nil {
		return event.Reject("url", "an https URL on the public internet: it "+err.Error())
	}
	if len(s.Subjects) == 0 || len(s.Subjects) > maxSubjects {
		return event.Reject("subjects", fmt.Sprintf("1 to %d subjects or patterns such as orders.>", maxSubjects))
	}
	for i, p := range s.Subjects {
		if err := event.CheckPattern(p); err != nil {
			return event.Reject(fmt.Sprintf("subjects[%d]", i), "a subject or pattern such as orders.>: "+err.Error())
		}
	}
	if len(s.Description) > maxDescription {
		return event.Reject("description", fmt.Sprintf("at most %d bytes", maxDescription))
	}
	if s.Mode == "" {
		s.Mode = Structured
	}
	if s.Mode != Structured && s.Mode != Binary {
		return event.Reject("mode", "structured or binary")
	}
	if s.Timeout == 0 {
		s.Timeout = cfg.Timeout
	} else if d := s.Timeout.Std(); d != cfg.Timeout.Std() && (d < minTimeout || d > maxTimeout) {
		return event.Reject("timeout", fmt.Sprintf("a duration from %s to %s", minTimeout, maxTimeout))
	}
	if len(s.Signatures) == 0 {
		s.Signatures = []sign.Version{sign.V1, sign.V1A}
	}
	for i, v := range s.Signatures {
		if v != sign.V1 && v != sign.V1A || slices.Contains(s.Signatures[:i], v) {
			return event.Reject(fmt.Sprintf("signatures[%d]", i), "v1 or v1a, each once")
		}
	}
	return s.checkHeaders()
}

// restore puts the stored value back where a client sent what it was shown.
func (s *Spec) restore(stored map[string]string) error {
	headers := maps.Clone(s.Headers)
	for name, v := range headers {
		if v != redacted {
			continue
		}
		old, ok := stored[name]
		if !ok {
			return event.Reject("headers."+name, "a value: there is no stored one to keep")
		}
		headers[name] = old
	}
	s.Headers = headers
	return nil
}

// ownHeaders are set by us or belong to the connection.
var ownHeaders = []string{
	"Connection", "Content-Length", "Content-Type", "Content-Encoding", "Expect", "Host", "Keep-Alive",
	"Proxy-Authorization", "Te", "Trailer", "Traceparent", "Tracestate", "Transfer-Encoding", "Upgrade", "User-Agent",
}

func (s *Spec) checkHeaders() error {
	if len(s.Headers) > maxHeaders {
		return event.Reject("headers", fmt.Sprintf("at most %d headers", maxHeaders))
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		field := "headers." + name
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(s.Headers[name]) {
			return event.Reject(field, "a valid HTTP header name and value")
		}
		if slices.Contains(ownHeaders, canonical) || strings.HasPrefix(canonical, "Webhook-") || strings.HasPrefix(canonical, "Ce-") {
			return event.Reject(field, "a header that Weft does not set itself")
		}
		total += len(name) + len(s.Headers[name])
	}
	if total > maxHeaderBytes {
		return event.Reject("headers", fmt.Sprintf("at most %d bytes in all", maxHeaderBytes))
	}
	return nil
}
