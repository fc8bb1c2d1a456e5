package event

import "strings"

// percentEncode is the header value encoding of the CloudEvents HTTP and NATS
// bindings: space, double quote, percent and all outside U+0021..U+007E become
// %XX of their UTF-8 bytes.
func percentEncode(s string) string {
	n := 0
	for i := range len(s) {
		if mustEncode(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) + 2*n)
	for i := range len(s) {
		if c := s[i]; mustEncode(c) {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func mustEncode(c byte) bool { return c <= ' ' || c == '"' || c == '%' || c >= 0x7f }

// percentDecode undoes one round of percentEncode. A percent sign that starts
// no %XX stands for itself, as lenient senders write it.
func percentDecode(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = unquote(s[1 : len(s)-1])
	}
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// unquote removes the backslashes of an RFC 9110 quoted-string's content.
func unquote(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// attributeName returns the attribute that a header such as "Ce-Type" (prefix
// "ce-") carries, in lower case. Names that are usual allocate nothing.
func attributeName(header, prefix string) (string, bool) {
	if len(header) <= len(prefix) || !foldsTo(header[:len(prefix)], prefix) {
		return "", false
	}
	name := header[len(prefix):]
	for _, usual := range usualNames {
		if foldsTo(name, usual) {
			return usual, true
		}
	}
	return lower(name), true
}

var usualNames = [...]string{
	"id", "source", "type", "specversion", "time", "datacontenttype", "subject", "dataschema",
	ExtCorrelationID, ExtCausationID, ExtTraceparent, ExtTracestate, ExtPartitionKey, ExtDepth,
}

// foldsTo reports whether s is want, a lower-case text, in any case of ASCII.
func foldsTo(s, want string) bool {
	if len(s) != len(want) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// lower changes A to Z only: strings.ToLower turns the Kelvin sign into a k.
func lower(s string) string {
	for i := range len(s) {
		if s[i] >= 'A' && s[i] <= 'Z' {
			b := []byte(s)
			for j, c := range b {
				if c >= 'A' && c <= 'Z' {
					b[j] = c + 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// media returns the media type of a Content-Type value, lower case, without
// parameters.
func media(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}
