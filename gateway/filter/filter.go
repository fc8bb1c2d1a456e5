// Package filter is the filter dialects of the CloudEvents Subscriptions
// specification that look at attributes: exact, prefix, suffix, all, any, not.
// It knows no event type, does no I/O and holds no state. No compatibility
// promise.
package filter

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Limits of one filter.
const (
	MaxBytes = 8 << 10
	MaxDepth = 8
	MaxNodes = 64 // dialects and attributes together
)

// Filter decides on events by their attributes. The zero Filter lets every
// event pass. It never changes, so it may be shared.
type Filter struct{ root *node }

type dialect string

const (
	exact  dialect = "exact"
	prefix dialect = "prefix"
	suffix dialect = "suffix"
	all    dialect = "all"
	anyOf  dialect = "any"
	not    dialect = "not"
)

// node is one dialect: attributes for exact, prefix and suffix, else children.
type node struct {
	dialect    dialect
	attributes []attribute // sorted by name
	children   []*node
}

type attribute struct{ name, value string }

// Error says where in a filter something else was expected.
type Error struct {
	Path string // such as all[0].exact.type; empty for the filter itself
	Want string // what was expected, as a noun phrase
}

// Error reads like `all[0].exact.type: want a string`.
func (e *Error) Error() string {
	if e.Path == "" {
		return "want " + e.Want
	}
	return e.Path + ": want " + e.Want
}

// Parse reads one filter object, or an array of them which must all match. The
// error is an *Error. Empty data is the zero Filter.
func Parse(data []byte) (Filter, error) {
	if len(data) == 0 {
		return Filter{}, nil
	}
	if len(data) > MaxBytes {
		return Filter{}, &Error{Want: "at most " + strconv.Itoa(MaxBytes) + " bytes"}
	}
	p := parser{}
	trimmed := strings.TrimLeft(string(data), " \t\r\n")
	if strings.HasPrefix(trimmed, "[") {
		children, err := p.list("", data, 2) // the array counts as a level, as its canonical form does
		if err != nil {
			return Filter{}, err
		}
		return Filter{&node{dialect: all, children: children}}, nil
	}
	n, err := p.node("", data, 1)
	if err != nil {
		return Filter{}, err
	}
	return Filter{n}, nil
}

type parser struct{ nodes int }

func (p *parser) count(path string, depth int) error {
	if p.nodes++; p.nodes > MaxNodes {
		return &Error{path, "at most " + strconv.Itoa(MaxNodes) + " dialects and attributes"}
	}
	if depth > MaxDepth {
		return &Error{path, "at most " + strconv.Itoa(MaxDepth) + " levels"}
	}
	return nil
}

func (p *parser) node(path string, data []byte, depth int) (*node, error) {
	if err := p.count(path, depth); err != nil {
		return nil, err
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || len(members) != 1 {
		return nil, &Error{path, "an object with one of exact, prefix, suffix, all, any, not"}
	}
	for name, raw := range members {
		at := join(path, name)
		n := &node{dialect: dialect(name)}
		var err error
		switch n.dialect {
		case exact, prefix, suffix:
			n.attributes, err = p.attributes(at, raw)
		case all, anyOf:
			n.children, err = p.list(at, raw, depth+1)
		case not:
			var child *node
			child, err = p.node(at, raw, depth+1)
			n.children = []*node{child}
		default:
			err = &Error{at, "one of the dialects exact, prefix, suffix, all, any, not"}
		}
		return n, err
	}
	return nil, nil // not reached: members has one entry
}

func (p *parser) list(path string, data []byte, depth int) ([]*node, error) {
	var items []json.RawMessage
	if json.Unmarshal(data, &items) != nil || len(items) == 0 {
		return nil, &Error{path, "an array with at least one filter"}
	}
	nodes := make([]*node, 0, min(len(items), MaxNodes))
	for i, raw := range items {
		n, err := p.node(path+"["+strconv.Itoa(i)+"]", raw, depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (p *parser) attributes(path string, data []byte) ([]attribute, error) {
	var values map[string]json.RawMessage
	if json.Unmarshal(data, &values) != nil || len(values) == 0 {
		return nil, &Error{path, "an object of attribute names and strings"}
	}
	out := make([]attribute, 0, min(len(values), MaxNodes))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		at := join(path, name)
		if err := p.count(at, 1); err != nil {
			return nil, err
		}
		if !attributeName(name) {
			return nil, &Error{at, "an attribute name of lower-case letters and digits"}
		}
		var value string
		if raw := values[name]; len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &value) != nil || value == "" {
			return nil, &Error{at, "a string that is not empty"}
		}
		out = append(out, attribute{name, value})
	}
	return out, nil
}

func join(path, name string) string {
	if len(name) > 40 {
		name = name[:40] + "…"
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func attributeName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// Attributes gives an event's attribute by its CloudEvents name, or "" when the
// event has none.
type Attributes interface {
	Attribute(name string) string
}

// Match reports whether the filter lets an event with these attributes pass.
func (f Filter) Match(a Attributes) bool { return f.root == nil || f.root.match(a) }

func (n *node) match(a Attributes) bool {
	switch n.dialect {
	case all:
		for _, c := range n.children {
			if !c.match(a) {
				return false
			}
		}
		return true
	case anyOf:
		for _, c := range n.children {
			if c.match(a) {
				return true
			}
		}
		return false
	case not:
		return !n.children[0].match(a)
	}
	for _, at := range n.attributes {
		if !n.compare(a.Attribute(at.name), at.value) {
			return false
		}
	}
	return true
}

func (n *node) compare(have, want string) bool {
	switch n.dialect {
	case prefix:
		return strings.HasPrefix(have, want)
	case suffix:
		return strings.HasSuffix(have, want)
	}
	return have == want
}

// String is the filter in one canonical JSON form: equal filters written in
// another order of attributes have the same. The zero Filter is empty.
func (f Filter) String() string {
	if f.root == nil {
		return ""
	}
	var b strings.Builder
	f.root.write(&b)
	return b.String()
}

func (n *node) write(b *strings.Builder) {
	fmt.Fprintf(b, `{%q:`, n.dialect)
	switch n.dialect {
	case not:
		n.children[0].write(b)
	case all, anyOf:
		for i, c := range n.children {
			b.WriteByte("[,"[min(i, 1)])
			c.write(b)
		}
		b.WriteByte(']')
	default:
		for i, at := range n.attributes {
			value, _ := json.Marshal(at.value) // a string cannot fail
			fmt.Fprintf(b, `%c"%s":%s`, "{,"[min(i, 1)], at.name, value)
		}
		b.WriteByte('}')
	}
	b.WriteByte('}')
}
