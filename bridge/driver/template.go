package driver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weft.dev/weft/event"
)

// Template makes a topic, subject, key or group from a record:
//
//	orders.{{subject 1}}
//	{{header `ce-partitionkey` | default subject}}
//
// A value is one of
//
//	subject        the Weft subject; subject N its token N, counted from 0
//	origin         the site that accepted the event
//	topic          the topic, queue or stream it was read from
//	id source type the CloudEvents attributes
//	key            the Kafka key or partitionkey
//	header `NAME`  a transport header, or with ce- before it any attribute
//
// and may pass through `default VALUE` (when empty), `lower`, `upper` and
// `token` (every character a subject token cannot hold becomes _). A value that
// is empty in the end is an error of the record. The zero Template is empty.
type Template struct {
	text  string
	parts []part
}

// part is literal text or a pipeline.
type part struct {
	text  string
	steps []call
}

type call struct {
	name string
	arg  string
	n    int   // argument of subject, -1 for all of it
	alt  *call // argument of default that is a value itself
}

// values are the functions a pipeline may begin with, and whether they take an
// argument: 0 none, 1 required, 2 optional.
var values = map[string]int{"subject": 2, "origin": 0, "topic": 0, "id": 0, "source": 0, "type": 0, "key": 0, "header": 1}

// filters are the functions that may follow a |.
var filters = map[string]int{"default": 1, "lower": 0, "upper": 0, "token": 0}

// ParseTemplate reads the text form; its error names what is not understood.
func ParseTemplate(s string) (Template, error) {
	t := Template{text: s}
	for rest := s; rest != ""; {
		open := strings.Index(rest, "{{")
		if open < 0 {
			open = len(rest)
		}
		if i := strings.Index(rest[:open], "}}"); i >= 0 {
			return Template{}, fmt.Errorf("template %q: }} without {{", s)
		}
		if open > 0 {
			t.parts = append(t.parts, part{text: rest[:open]})
		}
		if open == len(rest) {
			break
		}
		inner, after, ok := strings.Cut(rest[open+2:], "}}")
		if !ok {
			return Template{}, fmt.Errorf("template %q: {{ without }}", s)
		}
		steps, err := parsePipe(inner)
		if err != nil {
			return Template{}, fmt.Errorf("template %q: %w", s, err)
		}
		t.parts = append(t.parts, part{steps: steps})
		rest = after
	}
	return t, nil
}

// MustParse is ParseTemplate for a text that stands in the source.
func MustParse(s string) Template {
	t, err := ParseTemplate(s)
	if err != nil {
		panic(err)
	}
	return t
}

func parsePipe(s string) ([]call, error) {
	words, err := words(s)
	if err != nil {
		return nil, err
	}
	var steps []call
	for {
		i := slices.Index(words, "|")
		head := words
		if i >= 0 {
			head = words[:i]
		}
		known, kind := values, "function"
		if len(steps) > 0 {
			known, kind = filters, "filter"
		}
		c, err := parseCall(head, known, kind)
		if err != nil {
			return nil, err
		}
		steps = append(steps, c)
		if i < 0 {
			return steps, nil
		}
		words = words[i+1:]
	}
}

func parseCall(words []string, known map[string]int, kind string) (call, error) {
	if len(words) == 0 {
		return call{}, fmt.Errorf("a %s is missing; known: %s", kind, names(known))
	}
	c := call{name: words[0], n: -1}
	takes, ok := known[c.name]
	switch {
	case !ok:
		return c, fmt.Errorf("unknown %s %q; known: %s", kind, c.name, names(known))
	case len(words) > 2:
		return c, fmt.Errorf("%s takes one argument, got %s", c.name, strings.Join(words[1:], " "))
	case len(words) == 2 && takes == 0:
		return c, fmt.Errorf("%s takes no argument, got %s", c.name, words[1])
	case len(words) == 1 && takes == 1:
		return c, fmt.Errorf("%s wants an argument", c.name)
	case len(words) == 1:
		return c, nil
	}
	return c, c.argument(words[1])
}

func (c *call) argument(word string) (err error) {
	text, quoted := unquote(word)
	switch c.name {
	case "subject":
		if c.n, err = strconv.Atoi(word); err != nil || c.n < 0 || c.n >= event.MaxTokens {
			return fmt.Errorf("subject wants the number of a token, 0 to %d, got %s", event.MaxTokens-1, word)
		}
	case "default":
		if quoted {
			c.arg = text
			return nil
		}
		alt, err := parseCall([]string{word}, values, "function")
		if err != nil {
			return fmt.Errorf("default wants a text in quotes or a function: %w", err)
		}
		c.alt = &alt
	default:
		if !quoted {
			return fmt.Errorf("%s wants a text in quotes, got %s", c.name, word)
		}
		c.arg = text
	}
	return nil
}

func names(known map[string]int) string {
	list := make([]string, 0, len(known))
	for n := range known {
		list = append(list, n)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// words splits at blanks and |, and keeps quoted texts whole with their quotes.
func words(s string) ([]string, error) {
	var out []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		end := strings.IndexAny(s, " \t|`\"")
		switch {
		case end < 0:
			end = len(s)
		case end > 0:
		case s[0] == '|':
			end = 1
		default: // a quote
			i := strings.IndexByte(s[1:], s[0])
			if i < 0 {
				return nil, fmt.Errorf("%s is not closed", s)
			}
			end = i + 2
		}
		out, s = append(out, s[:end]), s[end:]
	}
	return out, nil
}

func unquote(word string) (string, bool) {
	if len(word) >= 2 && (word[0] == '`' || word[0] == '"') {
		return word[1 : len(word)-1], true
	}
	return word, false
}

// UnmarshalText reads a template from a configuration.
func (t *Template) UnmarshalText(b []byte) error {
	p, err := ParseTemplate(string(b))
	if err == nil {
		*t = p
	}
	return err
}

// MarshalText writes the form that UnmarshalText reads.
func (t Template) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// String is the text form.
func (t Template) String() string { return t.text }

// Empty reports whether the template was left out.
func (t Template) Empty() bool { return len(t.parts) == 0 }

// Fixed is the result for every record, if it depends on none.
func (t Template) Fixed() (string, bool) {
	if len(t.parts) == 1 && t.parts[0].steps == nil {
		return t.parts[0].text, true
	}
	return "", len(t.parts) == 0
}

// Uses reports whether a pipeline begins with the named function.
func (t Template) Uses(name string) bool {
	return slices.ContainsFunc(t.parts, func(p part) bool { return len(p.steps) > 0 && p.steps[0].name == name })
}

// Render makes the text for a record.
func (t Template) Render(r *Record) (string, error) {
	if s, ok := t.Fixed(); ok {
		return s, nil
	}
	var b strings.Builder
	for _, p := range t.parts {
		if p.steps == nil {
			b.WriteString(p.text)
			continue
		}
		v := p.steps[0].value(r)
		for _, f := range p.steps[1:] {
			v = f.filter(v, r)
		}
		if v == "" {
			return "", fmt.Errorf("template %q: %s is empty for this event", t.text, p.steps[0].describe())
		}
		b.WriteString(v)
	}
	return b.String(), nil
}

func (c call) describe() string {
	switch {
	case c.n >= 0:
		return c.name + " " + strconv.Itoa(c.n)
	case c.arg != "":
		return c.name + " " + strconv.Quote(c.arg)
	}
	return c.name
}

func (c call) value(r *Record) string {
	switch c.name {
	case "subject":
		return token(r.Path, c.n)
	case "origin":
		return r.Origin
	case "topic":
		return r.Topic
	case "id":
		return r.Event.ID
	case "source":
		return r.Event.Source
	case "type":
		return r.Event.Type
	case "key":
		if k := Header(r.Event, event.HeaderKey); k != "" {
			return k
		}
		return r.Event.Extensions[event.ExtPartitionKey]
	}
	return Header(r.Event, c.arg)
}

func (c call) filter(v string, r *Record) string {
	switch c.name {
	case "lower":
		return strings.ToLower(v)
	case "upper":
		return strings.ToUpper(v)
	case "token":
		return strings.Map(func(r rune) rune {
			if r == '-' || r == '_' || (r >= '0' && r <= '9') || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') {
				return r
			}
			return '_'
		}, v)
	}
	switch { // default
	case v != "":
		return v
	case c.alt != nil:
		return c.alt.value(r)
	}
	return c.arg
}

// token is the n-th token of a subject, all of it for -1, else empty.
func token(subject string, n int) string {
	if n < 0 {
		return subject
	}
	for ; n > 0; n-- {
		_, rest, ok := strings.Cut(subject, ".")
		if !ok {
			return ""
		}
		subject = rest
	}
	head, _, _ := strings.Cut(subject, ".")
	return head
}

// Header is the first value of a transport header, found without regard to
// case, or with ce- or ce_ before the name a CloudEvents attribute.
func Header(e event.Event, name string) string {
	lower := strings.ToLower(name)
	attr, ok := strings.CutPrefix(lower, "ce-")
	if !ok {
		attr, ok = strings.CutPrefix(lower, "ce_")
	}
	if ok {
		return attribute(e, attr)
	}
	if vs := e.Headers[name]; len(vs) > 0 {
		return vs[0]
	}
	for k, vs := range e.Headers {
		if len(vs) > 0 && strings.EqualFold(k, name) {
			return vs[0]
		}
	}
	return ""
}

func attribute(e event.Event, name string) string {
	switch name {
	case "id":
		return e.ID
	case "source":
		return e.Source
	case "type":
		return e.Type
	case "subject":
		return e.Subject
	case "time":
		return e.Time
	case "datacontenttype":
		return e.DataContentType
	case "dataschema":
		return e.DataSchema
	case "specversion":
		return event.SpecVersion
	}
	return e.Extensions[name]
}
