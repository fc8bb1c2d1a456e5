package snsfake

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// attribute is one message attribute in either protocol.
type attribute struct {
	DataType    string
	StringValue string `json:",omitempty"`
	BinaryValue []byte `json:",omitempty"`
}

// message is one message, in a topic's call or in a queue.
type message struct {
	ID         string
	Body       string
	Subject    string // SNS only
	Attributes map[string]attribute
	Group      string
	Dedup      string

	seq       uint64 // order in its queue
	sent      time.Time
	first     time.Time // first receive
	receives  int
	receipt   string    // valid while in flight
	visibleAt time.Time // while in flight or delayed
	heapIndex int
}

func (m *message) size() int {
	n := len(m.Body)
	for name, a := range m.Attributes {
		n += len(name) + len(a.DataType) + len(a.StringValue) + len(a.BinaryValue)
	}
	return n
}

// named tells whether s has 1 to most letters, digits, - and _, or those of more.
// A regular expression with such counts is a program of 100 kB.
func named(s string, most int, more string) bool {
	return s != "" && len(s) <= most && strings.Trim(s, wordChars+more) == ""
}

const wordChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// check applies the rules AWS has for a message of either service.
func (m *message) check(code string) error {
	if m.Body == "" {
		return badRequest(code, "Invalid parameter: Empty message")
	}
	if !utf8.ValidString(m.Body) || strings.ContainsFunc(m.Body, notAllowed) {
		return badRequest(code, "Invalid parameter: Message contains invalid characters")
	}
	for name, a := range m.Attributes {
		lower := strings.ToLower(name)
		switch {
		case !named(name, 256, "."), strings.HasPrefix(lower, "aws."), strings.HasPrefix(lower, "amazon."):
			return badRequest("InvalidParameterValue", "The message attribute name '%s' is invalid", name)
		case a.DataType == "":
			return badRequest("InvalidParameterValue", "The message attribute '%s' must contain a data type", name)
		case a.StringValue == "" && len(a.BinaryValue) == 0:
			return badRequest("InvalidParameterValue", "The message attribute '%s' must contain a non-empty value", name)
		case strings.ContainsFunc(a.StringValue, notAllowed):
			return badRequest("InvalidParameterValue", "The message attribute '%s' contains invalid characters", name)
		}
	}
	if m.size() > maxMessageSize {
		return badRequest(code, "Invalid parameter: Message too long")
	}
	return nil
}

// notAllowed are the characters XML 1.0 excludes; AWS refuses them in both services.
func notAllowed(r rune) bool {
	switch {
	case r == '\t', r == '\n', r == '\r':
		return false
	}
	return r < 0x20 || r == 0xfffe || r == 0xffff || r == utf8.RuneError
}

func bodyMD5(body string) string {
	sum := md5.Sum([]byte(body))
	return hex.EncodeToString(sum[:])
}

// attributesMD5 is the digest clients check: by name, each part with its length.
func attributesMD5(attrs map[string]attribute) string {
	if len(attrs) == 0 {
		return ""
	}
	var b []byte
	part := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		a := attrs[name]
		part(name)
		part(a.DataType)
		if strings.HasPrefix(a.DataType, "Binary") {
			b = append(b, 2)
			part(string(a.BinaryValue))
		} else {
			b = append(b, 1)
			part(a.StringValue)
		}
	}
	sum := md5.Sum(b)
	return hex.EncodeToString(sum[:])
}

// dedupe remembers deduplication ids for five minutes.
type dedupe struct {
	seen  map[string]time.Time
	order []string
}

// add reports whether id is new.
func (d *dedupe) add(id string, now time.Time) bool {
	if d.seen == nil {
		d.seen = map[string]time.Time{}
	}
	for len(d.order) > 0 && (len(d.order) >= maxDedupeIDs || now.Sub(d.seen[d.order[0]]) > dedupeWindow) {
		delete(d.seen, d.order[0])
		d.order = d.order[1:]
	}
	if _, ok := d.seen[id]; ok {
		return false
	}
	d.seen[id] = now
	d.order = append(d.order, id)
	return true
}
