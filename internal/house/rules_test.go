package house_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"weft.dev/weft/internal/house"
)

const comment = "// Package p does it. No compatibility promise.\n"

// Every rule is shown to fail on a small tree of its own.
func TestGoRules(t *testing.T) {
	lines := func(n int) string { return strings.Repeat("//\n", n) }
	body := func(n int) string { return strings.Repeat("\n", n) }
	tests := []struct {
		name string
		path string
		give string
		want string // empty: accepted
	}{
		{"role imports role", "gateway/a.go", "package p\nimport _ \"weft.dev/weft/mesh\"", "gateway/a.go:3: gateway may not import mesh"},
		{"role imports its own driver", "bridge/a.go", "package p\nimport _ \"weft.dev/weft/bridge/kafka\"", ""},
		{"role imports event", "mesh/a.go", "package p\nimport _ \"weft.dev/weft/event\"", ""},
		{"role imports the wiring", "mesh/a.go", "package p\nimport _ \"weft.dev/weft/internal/app\"", "mesh/a.go:3: mesh may not import internal/app"},
		{"role imports the test mesh", "ui/a.go", "package p\nimport _ \"weft.dev/weft/internal/wefttest\"", "ui/a.go:3: ui may not import internal/wefttest"},
		{"a role's test does", "ui/a_test.go", "package p\nimport _ \"weft.dev/weft/internal/wefttest\"", ""},
		{"base imports role", "internal/bus/a.go", "package p\nimport _ \"weft.dev/weft/mesh\"", "internal/bus/a.go:3: internal/bus may not import mesh"},
		{"wiring imports role", "internal/app/a.go", "package p\nimport _ \"weft.dev/weft/mesh\"", ""},
		{"test of the product runs it", "test/crash/a_test.go", "package p\nimport _ \"weft.dev/weft/internal/demo\"", ""},
		{"new folder", "gizmo/a.go", "package p\nimport _ \"weft.dev/weft/event\"", "gizmo/a.go:3: gizmo may not import event"},
		{"event imports a library", "event/a.go", "package p\nimport _ \"github.com/x/y\"", "event/a.go:3: event may import only the standard library, not github.com/x/y"},
		{"event's test does", "event/a_test.go", "package p\nimport _ \"github.com/x/y\"", ""},
		{"vague name", "mesh/util/a.go", "package util", "mesh/util/a.go:2: name the package after what it does, not util"},
		{"long file", "mesh/a.go", "package p\n" + lines(598), "mesh/a.go: 601 lines, at most 600"},
		{"long test", "mesh/a_test.go", "package p\n" + lines(998), "mesh/a_test.go: 1001 lines, at most 1000"},
		{"long function", "mesh/a.go", "package p\nfunc f() {" + body(80) + "}", "mesh/a.go:3: f: 81 lines, at most 80"},
		{"as long as may be", "mesh/a.go", "package p\nfunc f() {" + body(79) + "}", ""},
		{"many parameters", "mesh/a.go", "package p\nfunc f(a, b, c int, d, e string) {}", "mesh/a.go:3: f: 5 parameters, at most 4; use a struct"},
		{"parameters of a library", "mesh/a.go", "package p\ntype t int\nfunc (t) OnBrokerRead(a, b, c int, d, e string) {}", ""},
		{"parameters of a test's helper", "mesh/a_test.go", "package p\nfunc f(t *testing.T, a, b, c int, d string) {}", ""},
		{"too many of them", "mesh/a_test.go", "package p\nfunc f(t testing.TB, a, b, c int, d, e string) {}", "mesh/a_test.go:3: f: 5 parameters, at most 4; use a struct"},
		{"a role's test runs a node", "sidecar/a_test.go", "package p\nimport _ \"weft.dev/weft/mesh\"", ""},
		{"event's test does not", "event/a_test.go", "package p\nimport _ \"weft.dev/weft/mesh\"", "event/a_test.go:3: event may not import mesh"},
		{"a role's test imports a role", "sidecar/a_test.go", "package p\nimport _ \"weft.dev/weft/gateway\"", "sidecar/a_test.go:3: sidecar may not import gateway"},
		{"a scenario's test runs a server", "loadtest/a_test.go", "package p\nimport _ \"weft.dev/weft/gateway\"", ""},
		{"init", "mesh/a.go", "package p\nfunc init() {}", "mesh/a.go:3: no init(): say what depends on what"},
		{"method named init", "mesh/a.go", "package p\ntype t int\nfunc (t) init() {}", ""},
		{"exit", "mesh/a.go", "package p\nimport \"os\"\nfunc f() { os.Exit(1) }", "mesh/a.go:4: no os.Exit here: return an error; only cmd exits"},
		{"exit in a command", "cmd/weft/a.go", "package main\nimport \"os\"\nfunc f() { os.Exit(1) }", ""},
		{"fatal", "mesh/a.go", "package p\nimport \"log\"\nfunc f() { log.Fatalf(``) }", "mesh/a.go:4: no log.Fatalf here: use the injected logger"},
		{"global logger", "mesh/a.go", "package p\nimport \"log/slog\"\nvar l = slog.Default()", "mesh/a.go:4: no slog.Default here: use the injected logger"},
		{"logging to it", "mesh/a.go", "package p\nimport \"log/slog\"\nfunc f() { slog.InfoContext(nil, ``) }", "mesh/a.go:4: no slog.InfoContext here: use the injected logger"},
		{"variable named log", "mesh/a.go", "package p\nfunc f(log l) { log.Print() }", ""},
		{"sleeping test", "mesh/a_test.go", "package p\nimport \"time\"\nfunc f() { time.Sleep(1) }", "mesh/a_test.go:4: no time.Sleep here: wait for what is expected, or use testing/synctest"},
		{"sleep in a bubble", "mesh/a_test.go", "package p\nimport (\n\"testing/synctest\"\n\"time\"\n)\nfunc f() { time.Sleep(1); synctest.Wait() }", ""},
		{"unfinished", "mesh/a.go", "package p\n// TODO: more\nvar x int", "mesh/a.go:3: unfinished work: do it or file an issue"},
		{"exported function", "mesh/a.go", "package p\nfunc F() {}", "mesh/a.go:3: exported F has no comment"},
		{"exported type", "mesh/a.go", "package p\ntype T int", "mesh/a.go:3: exported T has no comment"},
		{"exported method", "mesh/a.go", "package p\n// T is.\ntype T[E any] int\nfunc (*T[E]) M() {}", "mesh/a.go:5: exported M has no comment"},
		{"method of a hidden type", "mesh/a.go", "package p\ntype t int\nfunc (t) M() {}", ""},
		{"comment on a group", "mesh/a.go", "package p\n// Both.\nconst (\nA = 1\nB = 2\n)", ""},
		{"generated", "mesh/a.go", "// Code generated by x. DO NOT EDIT.\npackage p\nfunc init() {}", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			breaches, err := house.Go(fstest.MapFS{tt.path: {Data: []byte(comment + tt.give + "\n")}})
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(breaches); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func TestPackageComments(t *testing.T) {
	const bare = "package p\n"
	tests := []struct {
		name string
		give map[string]string
		want string
	}{
		{"one", map[string]string{"mesh/a.go": comment + bare, "mesh/b.go": bare}, ""},
		{"none", map[string]string{"mesh/a.go": bare, "mesh/b.go": bare}, "mesh: has 0 package comments, want 1"},
		{"two", map[string]string{"mesh/a.go": comment + bare, "mesh/b.go": comment + bare}, "mesh: has 2 package comments, want 1"},
		{"without the promise", map[string]string{"mesh/a.go": "// Package p.\n" + bare}, `mesh/a.go:2: the package comment does not say "no compatibility promise"`},
		{"broken over lines", map[string]string{"mesh/a.go": "// Package p. No compatibility\n// promise.\n" + bare}, ""},
		{"event promises", map[string]string{"event/a.go": "// Package event.\npackage event\n"}, ""},
		{"command", map[string]string{"cmd/weft/a.go": "// Command weft.\npackage main\n"}, ""},
		{"only tests", map[string]string{"loadtest/a_test.go": "package p_test\n"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			breaches, err := house.Go(tree(tt.give))
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(breaches); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func TestGoFilesThatDoNotParse(t *testing.T) {
	if _, err := house.Go(tree(map[string]string{"mesh/a.go": "package"})); err == nil {
		t.Error("accepted a file that does not parse")
	}
}

func TestDocPaths(t *testing.T) {
	tests := []struct{ name, give, want string }{
		{"link", "see [the config](docs/config.md#keys) and [x](https://x.example/y), [below](#z)", ""},
		{"broken link", "\nsee [x](docs/none.md)", "README.md:2: names docs/none.md, which does not exist"},
		{"code", "in `mesh/a.go`, `./mesh` and `mesh/`", ""},
		{"missing path in code", "in `mesh/b.go`", "README.md:1: names mesh/b.go, which does not exist"},
		{"missing folder in code", "in `sdk/js/`", "README.md:1: names sdk/js, which does not exist"},
		{"no paths", "`application/json`, `orders/created`, `go test ./mesh/none`, `mesh/...`, `mesh`", ""},
		{"fenced", "```\n`mesh/none.go`\n```\n`mesh/gone.go`", "README.md:4: names mesh/gone.go, which does not exist"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			breaches, err := house.Docs(tree(map[string]string{"README.md": tt.give, "docs/config.md": "", "mesh/a.go": ""}))
			if err != nil {
				t.Fatal(err)
			}
			if got := texts(breaches); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func TestDependencies(t *testing.T) {
	const goMod = "module m\n\nrequire one.example/a v1.0.0\n\nrequire (\n\ttwo.example/b v1.0.0\n\tthree.example/c v1.0.0 // indirect\n)\n"
	tests := []struct{ name, give, want string }{
		{"all", "| Module | Why |\n|---|---|\n| `one.example/a` | good |\n| `two.example/b` | better |\n", ""},
		{"one missing", "| `one.example/a` | good |\n", "docs/dependencies.md: gives no reason for two.example/b of go.mod"},
		{"no reason", "| `one.example/a` | good |\n| `two.example/b` |  |\n", "docs/dependencies.md: gives no reason for two.example/b of go.mod"},
		{"one too many", "| `one.example/a` | x |\n| `two.example/b` | x |\n| `three.example/c` | x |\n", "docs/dependencies.md: lists three.example/c, which go.mod does not require directly"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := texts(house.Dependencies(goMod, tt.give)); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

func tree(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func texts(breaches []house.Breach) string {
	var out []string
	for _, b := range breaches {
		out = append(out, b.String())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
