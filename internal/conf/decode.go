package conf

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxNodes bounds the work of one file: aliases can make a small one unfold
// into billions of values. The largest real file has some thousands.
const maxNodes = 100_000

// decoder fills Go values from a node tree and collects mistakes on the way.
type decoder struct {
	lookup   Lookup
	lines    map[string]int // line of every key and list element, by path
	wrong    []string       // paths whose value could not be decoded
	mistakes []Mistake
	nodes    int
}

var (
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
	yamlType = reflect.TypeFor[yaml.Unmarshaler]()
)

// add notes a mistake.
func (d *decoder) add(line int, path, message string) {
	d.mistakes = append(d.mistakes, Mistake{Line: line, Path: path, Message: message})
}

// reject notes a mistake in the value at path, so that rules about the value
// that it did not get are not reported on top.
func (d *decoder) reject(n *yaml.Node, path, message string) {
	d.wrong = append(d.wrong, path)
	d.add(n.Line, path, message)
}

// root decodes the whole document.
func (d *decoder) root(n *yaml.Node, into any) {
	d.value(n, reflect.ValueOf(into).Elem(), "")
	if d.nodes > maxNodes {
		d.add(0, "", fmt.Sprintf("too large: more than %d values", maxNodes))
	}
}

// value decodes n into v, which is settable and holds the default.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if d.nodes++; d.nodes > maxNodes {
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return // a key without a value keeps its default
	}
	switch t := v.Type(); {
	case v.Kind() == reflect.Pointer:
		d.pointer(n, v, path)
	case reflect.PointerTo(t).Implements(yamlType) || t.Kind() == reflect.Interface:
		d.custom(n, v, path)
	case reflect.PointerTo(t).Implements(textType):
		d.scalar(n, v, path)
	case t.Kind() == reflect.Struct:
		d.structure(n, v, path)
	case t.Kind() == reflect.Slice:
		d.list(n, v, path)
	case t.Kind() == reflect.Map:
		d.mapping(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// pointer decodes into a fresh copy: the default behind the pointer is shared
// with whoever made it.
func (d *decoder) pointer(n *yaml.Node, v reflect.Value, path string) {
	fresh := reflect.New(v.Type().Elem())
	if !v.IsNil() {
		fresh.Elem().Set(v.Elem())
	}
	d.value(n, fresh.Elem(), path)
	v.Set(fresh)
}

// structure decodes a map whose keys are the fields of a struct.
func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	known := structFields(v.Type())
	d.pairs(n, path, func(key, val *yaml.Node) {
		p := join(path, key.Value)
		i := slices.IndexFunc(known, func(f field) bool { return f.name == key.Value })
		if i < 0 {
			d.add(key.Line, p, "unknown key"+suggest(key.Value, known))
			return
		}
		d.value(val, v.FieldByIndex(known[i].index), p)
	})
}

// mapping decodes a map with keys of the user's choice.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	t := v.Type()
	fresh := reflect.MakeMap(t)
	d.pairs(n, path, func(key, val *yaml.Node) {
		elem := reflect.New(t.Elem()).Elem()
		d.value(val, elem, join(path, key.Value))
		fresh.SetMapIndex(reflect.ValueOf(key.Value).Convert(t.Key()), elem)
	})
	v.Set(fresh)
}

// pairs calls f for each key of the map n, but not for repeated ones.
func (d *decoder) pairs(n *yaml.Node, path string, f func(key, val *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.reject(n, path, "want keys with values, have "+have(n, n.Value))
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.add(key.Line, path, "a key must be a word")
			continue
		}
		p := join(path, key.Value)
		if line, repeated := first[key.Value]; repeated {
			d.add(key.Line, p, fmt.Sprintf("repeated key, first on line %d", line))
			continue
		}
		first[key.Value], d.lines[p] = key.Line, key.Line
		f(key, val)
	}
}

// list decodes a sequence.
func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.reject(n, path, "want a list, have "+have(n, n.Value))
		return
	}
	fresh := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		p := Item(path, i)
		d.lines[p] = item.Line
		d.value(item, fresh.Index(i), p)
	}
	v.Set(fresh)
}

// scalar decodes one word, number or text.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.ScalarNode {
		d.reject(n, path, "want "+want(v.Kind())+", have "+have(n, ""))
		return
	}
	text, changed, err := expand(n.Value, d.lookup)
	if err != nil {
		d.reject(n, path, err.Error())
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			d.reject(n, path, err.Error())
		}
		return
	}
	if v.Kind() == reflect.String {
		v.SetString(text)
		return
	}
	plain := yaml.Node{Kind: yaml.ScalarNode, Tag: n.Tag, Value: text, Line: n.Line}
	if changed {
		plain.Tag = "" // the type is that of what was put in
	}
	if err := plain.Decode(v.Addr().Interface()); err != nil {
		d.reject(n, path, "want "+want(v.Kind())+", have "+have(n, text))
	}
}

// custom hands a part of the tree, expanded, to a type that decodes itself.
func (d *decoder) custom(n *yaml.Node, v reflect.Value, path string) {
	before := len(d.mistakes)
	tree := d.expanded(n, path)
	if len(d.mistakes) > before || d.nodes > maxNodes {
		return
	}
	if err := tree.Decode(v.Addr().Interface()); err != nil {
		d.reject(n, path, err.Error())
	}
}

// expanded copies a tree with its values expanded and its aliases unfolded.
func (d *decoder) expanded(n *yaml.Node, path string) *yaml.Node {
	if d.nodes++; d.nodes > maxNodes {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	c := *n
	c.Anchor = ""
	if n.Kind == yaml.ScalarNode {
		text, changed, err := expand(n.Value, d.lookup)
		if err != nil {
			d.reject(n, path, err.Error())
			return &c
		}
		if c.Value = text; changed {
			c.Tag = ""
		}
		return &c
	}
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, part := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			c.Content[i] = part // keys are not expanded
			continue
		}
		c.Content[i] = d.expanded(part, path)
	}
	return &c
}

// validation adds what Validate found, with the line of the nearest key that
// stands in the file, and leaves out values that are wrong already.
func (d *decoder) validation(err error) {
	for _, f := range fields(err) {
		if !slices.ContainsFunc(d.wrong, func(p string) bool { return within(f.Path, p) }) {
			d.add(d.line(f.Path), f.Path, f.Message)
		}
	}
}

// line finds the line of path, or of the nearest part of the file around it.
func (d *decoder) line(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 0
}

// within reports whether path is outer or a part of it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (outer == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// want names a kind of value for the reader of a message.
func want(k reflect.Kind) string {
	switch k { //nolint:exhaustive // the rest is text
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a single value"
	}
}

// have shows what a node holds, shortened.
func have(n *yaml.Node, text string) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "keys with values"
	}
	if len(text) > 40 { // enough to recognise it
		text = text[:40] + "…"
	}
	return fmt.Sprintf("%q", text)
}
