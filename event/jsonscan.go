package event

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// These functions walk over JSON that json.Valid has passed, so they check
// nothing. They spare a map of raw members for each structured event.

// nextMember returns the next member of the object that b is inside of, both
// parts as they stand, and what follows. The key is nil at the object's end.
func nextMember(b []byte) (key, value, rest []byte) {
	b = skipSpace(b)
	if b[0] == ',' {
		b = skipSpace(b[1:])
	}
	if b[0] == '}' {
		return nil, nil, nil
	}
	n := valueLen(b)
	key, b = b[:n], skipSpace(b[n:])
	b = skipSpace(b[1:]) // the colon
	n = valueLen(b)
	return key, b[:n], b[n:]
}

func skipSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t' || b[0] == '\n' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// valueLen is the length of the value that b starts with.
func valueLen(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += stringLen(b[i:]) - 1
			if depth == 0 {
				return i + 1
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of what holds a number or literal
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
		}
	}
	return len(b)
}

// stringLen is the length of the string that b starts with, quotes included.
func stringLen(b []byte) int {
	for i := 1; ; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

// unquoteJSON returns the text of a JSON string; broken UTF-8 becomes U+FFFD.
func unquoteJSON(b []byte) string {
	if inner := b[1 : len(b)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	var s string
	_ = json.Unmarshal(b, &s) // valid, so it cannot fail
	return s
}

// memberName is unquoteJSON that allocates nothing for the usual names.
func memberName(key []byte) string {
	inner := key[1 : len(key)-1]
	for _, usual := range usualNames {
		if string(inner) == usual {
			return usual
		}
	}
	switch string(inner) {
	case "data":
		return "data"
	case "data_base64":
		return "data_base64"
	}
	return unquoteJSON(key)
}
