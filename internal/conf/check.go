package conf

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// FieldError says what is wrong with one key.
type FieldError struct {
	Path    string // the key as written in YAML: "gateway.listen", "bridges[0].name"
	Message string // what was expected: "want host:port"
}

// Error is "path: message".
func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Message
	}
	return e.Path + ": " + e.Message
}

// Field reports a mistake in the key at path, which is relative to the type
// whose Validate returns it; Under adds what comes before.
func Field(path, message string) error { return &FieldError{Path: path, Message: message} }

// Under prefixes the path of every Field error in err, so that a type can pass
// on the Validate of its parts: Under("gateway", c.Gateway.Validate()), or
// Under("bridges[0]", …). Any other error becomes a mistake of prefix itself.
// Nil stays nil.
func Under(prefix string, err error) error {
	var out []error
	for _, f := range fields(err) {
		out = append(out, &FieldError{Path: join(prefix, f.Path), Message: f.Message})
	}
	return errors.Join(out...)
}

// Item is the path of the i-th element of a list: Item("bridges", 0) is
// "bridges[0]".
func Item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Required wants a value that is not empty.
func Required[T comparable](path string, v T) error {
	var zero T
	if v == zero {
		return Field(path, "must be set")
	}
	return nil
}

// HostPort wants an address to listen on or to dial: host:port, with a port of
// 0 to 65535. An empty host means every interface; port 0 means a chosen one.
func HostPort(path, v string) error {
	_, port, err := net.SplitHostPort(v)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return Field(path, fmt.Sprintf("want host:port, such as 127.0.0.1:8280, have %q", v))
	}
	return nil
}

// namePattern has no count, which would make a large program of it.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

const maxName = 63

// Name wants a name that can stand in a subject, a stream name and a file
// name: 1 to 63 letters, digits, - and _, beginning with a letter or digit.
func Name(path, v string) error {
	if len(v) > maxName || !namePattern.MatchString(v) {
		return Field(path, fmt.Sprintf("want 1 to 63 letters, digits, - or _, have %q", v))
	}
	return nil
}

// URL wants an absolute URL with a host and one of the schemes.
func URL(path, v string, schemes ...string) error {
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
		return Field(path, fmt.Sprintf("want a URL with %s, have %q", oneOf(schemes, "://"), redactURL(u, v)))
	}
	return nil
}

// redactURL keeps a password in a URL out of messages.
func redactURL(u *url.URL, v string) string {
	if u == nil && strings.Contains(v, "@") {
		return redacted
	}
	if u != nil && u.User != nil {
		return u.Redacted()
	}
	return v
}

// OneOf wants one of the given words.
func OneOf(path, v string, words ...string) error {
	if !slices.Contains(words, v) {
		return Field(path, fmt.Sprintf("want %s, have %q", oneOf(words, ""), v))
	}
	return nil
}

// AtLeast wants a number, Duration or Size of lo or more.
func AtLeast[T cmp.Ordered](path string, v, lo T) error {
	if v < lo {
		return Field(path, fmt.Sprintf("want %v or more, have %v", lo, v))
	}
	return nil
}

// Between wants a number, Duration or Size from lo to hi.
func Between[T cmp.Ordered](path string, v, lo, hi T) error {
	if v < lo || v > hi || v != v { // NaN is neither
		return Field(path, fmt.Sprintf("want %v to %v, have %v", lo, hi, v))
	}
	return nil
}

// oneOf is "a, b or c", each with the suffix.
func oneOf(words []string, suffix string) string {
	marked := make([]string, len(words))
	for i, w := range words {
		marked[i] = w + suffix
	}
	if n := len(marked); n > 1 {
		return strings.Join(marked[:n-1], ", ") + " or " + marked[n-1]
	}
	return strings.Join(marked, "")
}

// fields lists the Field errors in a tree of joined and wrapped errors; an
// error that is none is one without a path.
func fields(err error) []*FieldError {
	switch e := err.(type) { //nolint:errorlint // walks the tree itself, node by node
	case nil:
		return nil
	case *FieldError:
		return []*FieldError{e}
	case interface{ Unwrap() []error }:
		var all []*FieldError
		for _, part := range e.Unwrap() {
			all = append(all, fields(part)...)
		}
		return all
	}
	var f *FieldError
	if errors.As(err, &f) {
		return []*FieldError{f}
	}
	return []*FieldError{{Message: err.Error()}}
}

// join puts two parts of a path together.
func join(prefix, path string) string {
	if prefix == "" || path == "" || strings.HasPrefix(path, "[") {
		return prefix + path
	}
	return prefix + "." + path
}
