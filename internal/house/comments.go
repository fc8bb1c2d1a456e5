package house

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

// promise is what every package comment but event's says; users may rely on
// event alone.
const promise = "no compatibility promise"

// packageComments wants one comment per package, and the promise in it.
func packageComments(all []*source) []Breach {
	var out []Breach
	var folders []string
	commented := map[string][]*source{}
	for _, s := range all {
		if s.isTest() {
			continue
		}
		if !slices.Contains(folders, s.folder()) {
			folders = append(folders, s.folder())
		}
		if s.ast.Doc != nil {
			commented[s.folder()] = append(commented[s.folder()], s)
		}
	}
	for _, folder := range folders {
		files := commented[folder]
		if len(files) != 1 {
			out = append(out, Breach{Path: folder, Text: fmt.Sprintf("has %d package comments, want 1", len(files))})
			continue
		}
		s := files[0]
		text := strings.ToLower(strings.Join(strings.Fields(s.ast.Doc.Text()), " "))
		if folder != "event" && s.ast.Name.Name != "main" && !strings.Contains(text, promise) {
			out = append(out, s.breach(s.ast.Package, "the package comment does not say %q", promise))
		}
	}
	return out
}

// unfinished marks work that is put off; it belongs in an issue.
var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)

// comments wants one on every exported name, and none about unfinished work.
func comments(s *source) []Breach {
	var out []Breach
	for _, group := range s.ast.Comments {
		if unfinished.MatchString(group.Text()) {
			out = append(out, s.breach(group.Pos(), "unfinished work: do it or file an issue"))
		}
	}
	if s.isTest() || s.ast.Name.Name == "main" {
		return out
	}
	for _, decl := range s.ast.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
				out = append(out, s.breach(d.Pos(), "exported %s has no comment", d.Name.Name))
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if name, ok := bare(spec); ok && d.Doc == nil {
					out = append(out, s.breach(spec.Pos(), "exported %s has no comment", name))
				}
			}
		}
	}
	return out
}

// bare returns the first exported name that a declaration leaves without a
// comment of its own.
func bare(spec ast.Spec) (string, bool) {
	switch d := spec.(type) {
	case *ast.TypeSpec:
		return d.Name.Name, d.Name.IsExported() && d.Doc == nil && d.Comment == nil
	case *ast.ValueSpec:
		for _, name := range d.Names {
			if name.IsExported() && d.Doc == nil && d.Comment == nil {
				return name.Name, true
			}
		}
	}
	return "", false
}

// exportedReceiver is false for methods of types that no one outside sees.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}
