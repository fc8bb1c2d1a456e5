package house

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	link = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code = regexp.MustCompile("`([^`\n]+)`")
	file = regexp.MustCompile(`^(\./)?[\w.-]+(/[\w.-]+)*/?$`)
)

// roots are the folders that a path in the text can begin with; other words
// with a slash, such as media types, are no paths.
var roots = []string{
	".ci", "bridge", "cmd", "deploy", "docs", "event", "examples", "gateway",
	"internal", "loadtest", "mesh", "sdk", "sidecar", "trace", "ui",
}

// Docs checks that the links and paths named in the documents exist.
func Docs(tree fs.FS) ([]Breach, error) {
	var out []Breach
	err := walk(tree, func(name string) error {
		if path.Ext(name) != ".md" {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		out = append(out, paths(tree, name, string(text))...)
		return nil
	})
	return out, err
}

// paths checks one document. Links are relative to it, paths in code spans to
// the root of the tree. Fenced blocks show what users type and are left out.
func paths(tree fs.FS, name, text string) []Breach {
	var out []Breach
	fenced := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		if fenced {
			continue
		}
		var named []string
		for _, m := range link.FindAllStringSubmatch(line, -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if target != "" && !strings.Contains(target, ":") {
				named = append(named, path.Join(path.Dir(name), target))
			}
		}
		for _, m := range code.FindAllStringSubmatch(line, -1) {
			if isPath(m[1]) {
				named = append(named, path.Clean(m[1]))
			}
		}
		for _, p := range named {
			if _, err := fs.Stat(tree, p); err != nil {
				out = append(out, Breach{Path: name, Line: i + 1, Text: "names " + p + ", which does not exist"})
			}
		}
	}
	return out
}

// isPath tells the name of a file or folder of this repository from other
// words in code type.
func isPath(word string) bool {
	if !file.MatchString(word) || strings.Contains(word, "...") {
		return false
	}
	first, _, slashed := strings.Cut(strings.TrimPrefix(word, "./"), "/")
	return slashed && slices.Contains(roots, first)
}

// dependency is a row of the table in docs/dependencies.md.
var dependency = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| *([^|]*?) *\\|$")

// Dependencies holds the table in docs/dependencies.md against the direct
// requirements of go.mod: each has a row with a reason, and no other has one.
func Dependencies(goMod, doc string) []Breach {
	const table = "docs/dependencies.md"
	var out []Breach
	reasons := map[string]string{}
	for _, row := range dependency.FindAllStringSubmatch(doc, -1) {
		reasons[row[1]] = row[2]
	}
	direct := requirements(goMod)
	for _, module := range direct {
		if reasons[module] == "" {
			out = append(out, Breach{Path: table, Text: fmt.Sprintf("gives no reason for %s of go.mod", module)})
		}
	}
	for module := range reasons {
		if !slices.Contains(direct, module) {
			out = append(out, Breach{Path: table, Text: fmt.Sprintf("lists %s, which go.mod does not require directly", module)})
		}
	}
	return out
}

// requirements lists the modules that go.mod requires directly.
func requirements(goMod string) []string {
	var out []string
	block := false
	for line := range strings.Lines(goMod) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "require" && fields[1] == "(":
			block = true
		case len(fields) == 1 && fields[0] == ")":
			block = false
		case strings.Contains(line, "// indirect"):
		case block && len(fields) >= 2:
			out = append(out, fields[0])
		case len(fields) >= 3 && fields[0] == "require":
			out = append(out, fields[1])
		}
	}
	return out
}
