package conf

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Describe renders a configuration struct, holding its defaults, as a Markdown
// table: key, type, default and meaning, which is the field's doc tag. Keys of
// list elements are written "bridges[].name", those of maps "headers.<name>".
// The error lists the keys that have no doc tag.
func Describe(cfg any) (string, error) {
	w := describer{}
	w.out.WriteString("| Key | Type | Default | Meaning |\n|---|---|---|---|\n")
	w.structure(reflect.Indirect(reflect.ValueOf(cfg)), "", true)
	return w.out.String(), errors.Join(w.missing...)
}

// intro explains what the tables do not.
const intro = `# Configuration

Each process reads one YAML file, given with ` + "`-c FILE`" + `; without one, it runs on the defaults below. The file is read strictly: unknown or repeated keys, wrong types and unset variables are mistakes, and all of them are listed at once, each with its line. ` + "`weft check -c FILE`" + ` reads a file without running anything.

- A value may hold ` + "`${NAME}`" + `, ` + "`${NAME:-default}`" + ` (when unset or empty) and ` + "`${file:/path}`" + ` (the content of a file, less its last line end). ` + "`$$`" + ` is a plain ` + "`$`" + `. What is put in is never expanded again and cannot change the structure.
- Durations have units: ` + "`250ms`, `30s`, `1h30m`, `7d`" + `. Sizes too: ` + "`64KiB`, `1MiB`, `50GiB`" + `, or the decimal ` + "`500kB`, `10MB`" + `.
- A key that is absent or empty keeps its default; a list or a map replaces its default as a whole. In the elements of a list, zero means the default that the text gives.
- Secrets are never printed or logged; give them as ` + "`${file:…}`" + ` or a variable rather than in the file.

This page is written from the code: ` + "`make docs`" + `.
`

// Part is one file format of the reference page.
type Part struct {
	Title    string // "weft run"
	Defaults any    // the configuration struct, holding its defaults
}

// Reference renders the page docs/config.md: how a file is read, and Describe
// for each part. The error lists the keys without a doc tag.
func Reference(parts ...Part) (string, error) {
	page := intro
	var errs []error
	for _, p := range parts {
		table, err := Describe(p.Defaults)
		page += "\n## " + p.Title + "\n\n" + table
		errs = append(errs, err)
	}
	return page, errors.Join(errs...)
}

// describer collects the rows of the table.
type describer struct {
	out     strings.Builder
	missing []error
	depth   int
}

// maxDepth ends types that contain themselves.
const maxDepth = 8

// structure writes the rows of a struct. Without defaults, as in a list's
// elements, the column stays empty.
func (w *describer) structure(v reflect.Value, path string, defaults bool) {
	if w.depth++; w.depth <= maxDepth {
		for _, f := range structFields(v.Type()) {
			w.field(f, v.FieldByIndex(f.index), join(path, f.name), defaults)
		}
	}
	w.depth--
}

// field writes the row of one key and the rows of what is in it.
func (w *describer) field(f field, v reflect.Value, path string, defaults bool) {
	t := f.typ
	if t.Kind() == reflect.Pointer {
		t, defaults = t.Elem(), defaults && !v.IsNil()
		if v = v.Elem(); !defaults {
			v = reflect.Zero(t)
		}
	}
	if isSection(t) {
		if f.doc != "" {
			w.row(path, "section", "", f.doc)
		}
		w.structure(v, path, defaults)
		return
	}
	if f.doc == "" {
		w.missing = append(w.missing, fmt.Errorf("%s has no doc tag", path))
	}
	shown := ""
	if defaults {
		shown = showDefault(v)
	}
	w.row(path, typeName(t), shown, f.doc)
	switch {
	case isText(t):
	case t.Kind() == reflect.Slice && isSection(t.Elem()):
		w.structure(reflect.Zero(t.Elem()), path+"[]", false)
	case t.Kind() == reflect.Map && isSection(t.Elem()):
		w.structure(reflect.Zero(t.Elem()), path+".<name>", false)
	}
}

func (w *describer) row(path, kind, value, doc string) {
	if value != "" {
		value = "`" + value + "`"
	}
	doc = strings.ReplaceAll(doc, "|", `\|`)
	fmt.Fprintf(&w.out, "| `%s` | %s | %s | %s |\n", path, kind, value, doc)
}

// isSection reports whether t's fields are keys of their own.
func isSection(t reflect.Type) bool { return t.Kind() == reflect.Struct && !isText(t) }

func isText(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(textType) || p.Implements(yamlType)
}

// typeName is the type as a user of the file sees it.
func typeName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration](), reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[Secret]():
		return "secret"
	}
	switch k := t.Kind(); {
	case isText(t) || k == reflect.String:
		return "text"
	case k == reflect.Bool:
		return "true or false"
	case k == reflect.Slice && isSection(t.Elem()):
		return "list"
	case k == reflect.Slice:
		return "list of " + typeName(t.Elem())
	case k == reflect.Map && isSection(t.Elem()):
		return "map"
	case k == reflect.Map:
		return "map of " + typeName(t.Elem())
	case k == reflect.Interface:
		return "any"
	default:
		return "number"
	}
}

// showDefault writes a default as it would stand in the file.
func showDefault(v reflect.Value) string {
	switch v.Kind() { //nolint:exhaustive // the rest is written as it is
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			if items[i] = showDefault(v.Index(i)); isSection(v.Type().Elem()) {
				items[i] = "…"
			}
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map:
		if v.Len() == 0 {
			return "{}"
		}
		return "{…}"
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if text, err := m.MarshalText(); err == nil {
			return string(text)
		}
	}
	return fmt.Sprint(v.Interface())
}
