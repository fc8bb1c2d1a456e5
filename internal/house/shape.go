package house

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// The limits, as CONTRIBUTING.md states them: beyond them a file or function
// does more than one thing.
const (
	maxFileLines     = 600
	maxTestFileLines = 1000
	maxFuncLines     = 80
	maxParams        = 4
)

// prescribed methods have the parameters that a library's interface wants.
var prescribed = []string{"OnBrokerRead"} // kgo.HookBrokerRead

// sizes checks the length of files and functions and the number of parameters.
func sizes(s *source) []Breach {
	var out []Breach
	limit := maxFileLines
	if s.isTest() {
		limit = maxTestFileLines
	}
	if s.lines > limit {
		out = append(out, Breach{Path: s.path, Text: tooMany("lines", s.lines, limit)})
	}
	for _, decl := range s.ast.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFuncLines {
			out = append(out, s.breach(f.Pos(), "%s: %s", f.Name.Name, tooMany("lines", n, maxFuncLines)))
		}
		if n := s.params(f); n > maxParams && (f.Recv == nil || !slices.Contains(prescribed, f.Name.Name)) {
			out = append(out, s.breach(f.Pos(), "%s: %s; use a struct", f.Name.Name, tooMany("parameters", n, maxParams)))
		}
		if f.Name.Name == "init" && f.Recv == nil {
			out = append(out, s.breach(f.Pos(), "no init(): say what depends on what"))
		}
	}
	return out
}

// params counts a function's parameters. The t of a test's helper is none: it
// comes with every helper and is never part of what the helper is told.
func (s *source) params(f *ast.FuncDecl) int {
	n := f.Type.Params.NumFields()
	if n > 0 && s.isTest() && isTesting(f.Type.Params.List[0].Type) {
		n--
	}
	return n
}

// isTesting reports whether t is *testing.T, *testing.B, *testing.F or
// testing.TB.
func isTesting(t ast.Expr) bool {
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	sel, ok := t.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := sel.X.(*ast.Ident)
	return ok && pkg.Name == "testing"
}

// forbidden calls, by package and function, with what to do instead.
var forbidden = []struct {
	pkg    string
	name   *regexp.Regexp
	allow  func(*source) bool
	remedy string
}{
	{"os", regexp.MustCompile(`^Exit$`), func(s *source) bool { return within(s.folder(), "cmd") || s.isTest() }, "return an error; only cmd exits"},
	{"log", regexp.MustCompile(`^(Fatal|Print|Panic)`), never, "use the injected logger"},
	{"slog", regexp.MustCompile(`^(Default|SetDefault|Debug|Info|Warn|Error|Log|LogAttrs)(Context)?$`), never, "use the injected logger"},
	{"time", regexp.MustCompile(`^Sleep$`), func(s *source) bool { return !s.isTest() || s.importsSynctest() }, "wait for what is expected, or use testing/synctest"},
}

func never(*source) bool { return false }

// importsSynctest: in a bubble with a clock of its own, sleeping takes no time.
func (s *source) importsSynctest() bool {
	for _, spec := range s.ast.Imports {
		if spec.Path.Value == `"testing/synctest"` {
			return true
		}
	}
	return false
}

// calls finds uses of forbidden functions.
func calls(s *source) []Breach {
	var out []Breach
	ast.Inspect(s.ast, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		for _, f := range forbidden {
			if pkg.Name == f.pkg && f.name.MatchString(sel.Sel.Name) && !f.allow(s) && imported(s, f.pkg) {
				out = append(out, s.breach(sel.Pos(), "no %s.%s here: %s", f.pkg, sel.Sel.Name, f.remedy))
			}
		}
		return true
	})
	return out
}

// imported tells a package from a variable of the same name.
func imported(s *source, pkg string) bool {
	for _, spec := range s.ast.Imports {
		p := strings.Trim(spec.Path.Value, `"`)
		if spec.Name == nil && (p == pkg || strings.HasSuffix(p, "/"+pkg)) {
			return true
		}
	}
	return false
}

func tooMany(what string, n, limit int) string {
	return fmt.Sprintf("%d %s, at most %d", n, what, limit)
}
