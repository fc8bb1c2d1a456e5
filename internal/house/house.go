// Package house holds the rules of this repository that no linter knows: which
// package may import which, how long files and functions get, what a package
// comment says, which paths and dependencies the documents name. Its tests run
// them over the whole tree. It changes nothing and formats nothing. No
// compatibility promise.
package house

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Module is the import path of this repository.
const Module = "weft.dev/weft"

// Breach is one place where a rule is broken.
type Breach struct {
	Path string
	Line int // 0 when it concerns the whole file
	Text string
}

// String is "path:line: text".
func (b Breach) String() string {
	if b.Line == 0 {
		return b.Path + ": " + b.Text
	}
	return fmt.Sprintf("%s:%d: %s", b.Path, b.Line, b.Text)
}

// source is one parsed Go file.
type source struct {
	path  string // slash-separated, from the root of the tree
	lines int
	fset  *token.FileSet
	ast   *ast.File
}

// folder is the package's path below the module.
func (s *source) folder() string { return path.Dir(s.path) }

func (s *source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s *source) breach(p token.Pos, format string, args ...any) Breach {
	return Breach{Path: s.path, Line: s.fset.Position(p).Line, Text: fmt.Sprintf(format, args...)}
}

// skipped folders hold nothing that people write here.
var skipped = []string{".git", "node_modules", "dist", "testdata", "bin"}

// walk calls f for every file of the tree that people write.
func walk(tree fs.FS, f func(name string) error) error {
	return fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(skipped, entry.Name()):
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		return f(name)
	})
}

// read parses every Go file of the tree that is not generated.
func read(tree fs.FS) ([]*source, error) {
	var all []*source
	err := walk(tree, func(name string) error {
		if path.Ext(name) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if !ast.IsGenerated(file) {
			all = append(all, &source{path: name, lines: bytes.Count(text, []byte("\n")), fset: fset, ast: file})
		}
		return nil
	})
	return all, err
}

// Go checks every Go file of the tree.
func Go(tree fs.FS) ([]Breach, error) {
	all, err := read(tree)
	if err != nil {
		return nil, fmt.Errorf("read Go files: %w", err)
	}
	out := packageComments(all)
	for _, s := range all {
		out = append(out, imports(s)...)
		out = append(out, sizes(s)...)
		out = append(out, calls(s)...)
		out = append(out, comments(s)...)
	}
	return out, nil
}
