package house

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// layer says what the packages in a folder may import of this repository: the
// folder itself and those listed, each with all that is below it. The first
// layer whose folder matches counts.
type layer struct {
	folder string
	may    []string
}

// top are the packages that put the product together, and the tests of all of
// it; only they may import one of them, and they may import everything.
var top = []string{"internal/app", "internal/cli", "internal/demo", "cmd", "test"}

// layers follow the drawing in ARCHITECTURE.md. What is in no layer may import
// nothing, so a new folder needs a line here.
var layers = []layer{
	{"event", nil},
	{"internal/wefttest", []string{"event", "internal", "mesh"}}, // only tests import it
	{"internal", []string{"event", "internal"}},
	{"trace", []string{"event", "internal"}},
	{"mesh", []string{"event", "internal"}},
	{"gateway", []string{"event", "internal"}},
	{"sidecar", []string{"event", "internal"}},
	{"bridge", []string{"event", "internal"}},
	{"ui", []string{"event", "internal", "trace"}},
	{"loadtest", []string{"event"}},
	{"examples", []string{"event"}},
}

// vague names say nothing about what a package is for.
var vague = []string{"util", "utils", "common", "types", "models", "helpers", "misc"}

// imports checks the direction of a file's imports and its package's name.
func imports(s *source) []Breach {
	var out []Breach
	folder := s.folder()
	if slices.Contains(vague, path.Base(folder)) {
		out = append(out, s.breach(s.ast.Package, "name the package after what it does, not %s", path.Base(folder)))
	}
	for _, spec := range s.ast.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has accepted it
		}
		ours, isOurs := strings.CutPrefix(name, Module+"/")
		switch {
		case isOurs && !mayImport(folder, ours, s.isTest()):
			out = append(out, s.breach(spec.Pos(), "%s may not import %s", folder, ours))
		case !isOurs && within(folder, "event") && !s.isTest() && strings.Contains(name, "."):
			out = append(out, s.breach(spec.Pos(), "event may import only the standard library, not %s", name))
		}
	}
	return out
}

// mayImport decides by layer; tests may use a node besides.
func mayImport(folder, target string, test bool) bool {
	switch {
	case within(folder, target) || slices.ContainsFunc(top, func(t string) bool { return within(folder, t) }):
		return true
	case slices.ContainsFunc(top, func(t string) bool { return within(target, t) }):
		return false
	case target == "internal/wefttest":
		return test
	case test && target == "mesh":
		return !within(folder, "event") // a real node to test against
	case test && within(folder, "loadtest"):
		return true // scenarios are tested against whole servers
	}
	for _, l := range layers {
		if within(folder, l.folder) {
			return within(target, l.folder) || slices.ContainsFunc(l.may, func(m string) bool { return within(target, m) })
		}
	}
	return false
}

// within reports whether folder is outer or below it.
func within(folder, outer string) bool {
	return folder == outer || strings.HasPrefix(folder, outer+"/")
}
