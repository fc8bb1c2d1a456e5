// Package conf reads the configuration: one YAML file, decoded strictly over
// defaults, with variables and files expanded inside its values. It reports
// every mistake of a file at once, each with its line and key. It knows no
// role's settings: those are types of the roles, which use Duration, Size,
// Secret and the checks from here. No compatibility promise.
package conf

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Lookup finds a variable by name; os.LookupEnv is one.
type Lookup = func(name string) (string, bool)

// Validator is implemented by a configuration type whose values have rules
// beyond their types. Validate joins one Field error per mistake.
type Validator interface{ Validate() error }

// Mistake is one thing wrong in a configuration.
type Mistake struct {
	File    string // as given to LoadFile, else empty
	Line    int    // 1-based; 0 when the key is absent from the file
	Path    string // "mesh.links.sites[0].name"; empty when it concerns the file
	Message string
}

// String is "file:line: path: message", less what is not known.
func (m Mistake) String() string {
	var where string
	switch {
	case m.File != "" && m.Line > 0:
		where = fmt.Sprintf("%s:%d: ", m.File, m.Line)
	case m.File != "":
		where = m.File + ": "
	case m.Line > 0:
		where = fmt.Sprintf("line %d: ", m.Line)
	}
	if m.Path != "" {
		where += m.Path + ": "
	}
	return where + m.Message
}

// Error holds every mistake of one configuration, sorted by line; those
// without a line come last.
type Error struct{ Mistakes []Mistake }

// Error prints one mistake per line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Mistakes))
	for i, m := range e.Mistakes {
		lines[i] = m.String()
	}
	return strings.Join(lines, "\n")
}

// Load decodes YAML data over the defaults in into and then calls its
// Validate method, if it has one. A value may hold ${NAME}, ${NAME:-default}
// and ${file:/path}; $$ is a plain $. Unknown and repeated keys, wrong types
// and unset variables are mistakes. Absent and null keys keep their default; a
// list or a map replaces its default. On a mistake the result is an *Error
// with all of them, and into is left as it was.
func Load[T any](data []byte, into *T, lookup Lookup) error {
	next := *into
	d := decoder{lookup: lookup, lines: map[string]int{}}
	root, err := parse(data)
	if err != nil {
		d.mistakes = append(d.mistakes, syntax(err))
		return d.result()
	}
	if root != nil {
		d.root(root, &next)
	}
	if v, ok := any(&next).(Validator); ok {
		d.validation(v.Validate())
	}
	if err := d.result(); err != nil {
		return err
	}
	*into = next
	return nil
}

// LoadFile is Load for the file at path, whose name every mistake then bears.
func LoadFile[T any](path string, into *T, lookup Lookup) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	err = Load(data, into, lookup)
	var e *Error
	if errors.As(err, &e) {
		for i := range e.Mistakes {
			e.Mistakes[i].File = path
		}
	}
	return err
}

// Validate runs the rules of a configuration that comes from no file and
// returns nil or an *Error.
func Validate(v Validator) error {
	d := decoder{}
	d.validation(v.Validate())
	return d.result()
}

// parse reads exactly one YAML document; nil means that there is none.
func parse(data []byte) (*yaml.Node, error) {
	var docs []yaml.Node
	if err := yaml.Load(data, &docs, yaml.WithAllDocuments(), yaml.WithUniqueKeys(false)); err != nil {
		return nil, err
	}
	switch {
	case len(docs) == 0:
		return nil, nil
	case len(docs) > 1:
		return nil, fmt.Errorf("want one YAML document, have %d", len(docs))
	case docs[0].Kind == yaml.DocumentNode && len(docs[0].Content) == 1:
		return docs[0].Content[0], nil
	default:
		return &docs[0], nil
	}
}

// syntax turns a parser's error into a mistake.
func syntax(err error) Mistake {
	var e *yaml.LoadError
	if errors.As(err, &e) {
		return Mistake{Line: e.Mark.Line, Message: "not valid YAML: " + e.Message}
	}
	return Mistake{Message: err.Error()}
}

// result returns the mistakes found so far, sorted and without repeats.
func (d *decoder) result() error {
	if len(d.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(d.mistakes, func(a, b Mistake) int {
		if (a.Line == 0) != (b.Line == 0) {
			return cmp.Compare(b.Line, a.Line) // without a line: last
		}
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Path, b.Path))
	})
	return &Error{Mistakes: slices.Compact(d.mistakes)}
}
