package conf

import (
	"reflect"
	"strings"
)

// field is one key of a configuration struct.
type field struct {
	name  string
	doc   string
	index []int // for reflect.Value.FieldByIndex
	typ   reflect.Type
}

// structFields lists the keys of a struct in the order of its fields. A field
// is a key if its yaml tag does not say "-"; ",inline" fields add their own.
func structFields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case !f.IsExported() || name == "-":
		case options == "inline":
			for _, inner := range structFields(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				out = append(out, inner)
			}
		default:
			if name == "" {
				name = strings.ToLower(f.Name)
			}
			out = append(out, field{name: name, doc: f.Tag.Get("doc"), index: []int{i}, typ: f.Type})
		}
	}
	return out
}

// suggest helps with a mistyped key.
func suggest(key string, known []field) string {
	best, names := "", make([]string, len(known))
	least := 3 // as many typing errors are another word
	for i, f := range known {
		names[i] = f.name
		if n := distance(strings.ToLower(key), strings.ToLower(f.name)); n < least && n < len(f.name)-1 {
			best, least = f.name, n
		}
	}
	switch {
	case best != "":
		return ", did you mean " + best + "?"
	case len(names) == 0:
		return ""
	default:
		return "; known here: " + strings.Join(names, ", ")
	}
}

// distance is the number of letters to insert, drop or change to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
