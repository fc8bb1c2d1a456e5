package conf_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/internal/conf"
)

type sample struct {
	Site    string            `yaml:"site"`
	Gateway gateway           `yaml:"gateway"`
	Bridges []bridge          `yaml:"bridges"`
	Labels  map[string]string `yaml:"labels"`
	Sample  float64           `yaml:"sample"`
}

type gateway struct {
	Listen  string        `yaml:"listen"`
	Idle    conf.Duration `yaml:"idle"`
	MaxBody conf.Size     `yaml:"maxBody"`
	Key     conf.Secret   `yaml:"key"`
	TLS     bool          `yaml:"tls"`
}

type bridge struct {
	Name  string `yaml:"name"`
	Batch int    `yaml:"batch"`
	Kafka *kafka `yaml:"kafka"`
}

type kafka struct {
	Brokers []string `yaml:"brokers"`
}

func (c sample) Validate() error {
	errs := []error{conf.Name("site", c.Site), conf.Under("gateway", c.Gateway.Validate())}
	for i, b := range c.Bridges {
		errs = append(errs, conf.Under(conf.Item("bridges", i), b.Validate()))
	}
	return errors.Join(errs...)
}

func (c gateway) Validate() error {
	return errors.Join(
		conf.HostPort("listen", c.Listen),
		conf.AtLeast("idle", c.Idle, conf.Duration(time.Second)),
	)
}

func (c bridge) Validate() error {
	return errors.Join(conf.Name("name", c.Name), conf.Between("batch", c.Batch, 0, 1000))
}

func defaults() sample {
	return sample{
		Site:    "local",
		Gateway: gateway{Listen: "127.0.0.1:8280", Idle: conf.Duration(time.Minute), MaxBody: 1 << 20},
		Labels:  map[string]string{"from": "default"},
		Sample:  0.1,
	}
}

func env(name string) (string, bool) {
	v, ok := map[string]string{"SITE": "fra", "BATCH": "7", "EMPTY": "", "TRICK": "a\nbatch: 9", "REF": "${SITE}"}[name]
	return v, ok
}

func load(t *testing.T, text string) (sample, error) {
	t.Helper()
	cfg := defaults()
	err := conf.Load([]byte(text), &cfg, env)
	return cfg, err
}

func TestLoadListsEveryMistakeWithItsLine(t *testing.T) {
	_, err := load(t, `site: fra
gateway:
  lisen: 0.0.0.0:1
  listen: nonsense
  maxBody: plenty
bridges:
  - name: out
    name: again
    batch: ${MISSING}
`)
	want := strings.Join([]string{
		`line 3: gateway.lisen: unknown key, did you mean listen?`,
		`line 4: gateway.listen: want host:port, such as 127.0.0.1:8280, have "nonsense"`,
		`line 5: gateway.maxBody: want a size such as 64KiB, 1MiB, 50GiB or 500kB, have "plenty"`,
		`line 8: bridges[0].name: repeated key, first on line 7`,
		`line 9: bridges[0].batch: variable MISSING is not set; give a default with ${MISSING:-default}`,
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("Load() mistakes (-want +got):\n%s", cmp.Diff(want, errText(err)))
	}
}

func TestLoad(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		give string
		want func(*sample)
	}{
		{"nothing keeps the defaults", "", func(*sample) {}},
		{"comments keep the defaults", "# site: x\n", func(*sample) {}},
		{"null keeps the defaults", "gateway:\nsite: ~\nlabels:\n", func(*sample) {}},
		{"one key of a section", "gateway: {idle: 7d}", func(c *sample) { c.Gateway.Idle = conf.Duration(7 * 24 * time.Hour) }},
		{"variable in text", "site: x-${SITE}", func(c *sample) { c.Site = "x-fra" }},
		{"default for an unset variable", "site: ${NONE:-iad}", func(c *sample) { c.Site = "iad" }},
		{"default for an empty variable", "site: ${EMPTY:-iad}", func(c *sample) { c.Site = "iad" }},
		{"empty default", "gateway: {key: '${NONE:-}'}", func(c *sample) { c.Gateway.Key = "" }},
		{"variable as a number", "bridges: [{name: b, batch: '${BATCH}'}]", func(c *sample) { c.Bridges = []bridge{{Name: "b", Batch: 7}} }},
		{"dollar", "labels: {a: $$HOME, b: $x, c: '$${SITE}'}", func(c *sample) {
			c.Labels = map[string]string{"a": "$HOME", "b": "$x", "c": "${SITE}"}
		}},
		{"a value cannot change the structure", "labels: {a: '${TRICK}'}", func(c *sample) {
			c.Labels = map[string]string{"a": "a\nbatch: 9"}
		}},
		{"a value is not expanded again", "labels: {a: '${REF}'}", func(c *sample) { c.Labels = map[string]string{"a": "${SITE}"} }},
		{"file", "gateway: {key: '${file:" + secret + "}'}", func(c *sample) { c.Gateway.Key = "s3cret" }},
		{"size and flag", "gateway: {maxBody: 2MiB, tls: true}", func(c *sample) { c.Gateway.MaxBody, c.Gateway.TLS = 2<<20, true }},
		{"digits as text", "site: 012", func(c *sample) { c.Site = "012" }},
		{"section behind a pointer", "bridges: [{name: b, kafka: {brokers: ['h:9092']}}]", func(c *sample) {
			c.Bridges = []bridge{{Name: "b", Kafka: &kafka{Brokers: []string{"h:9092"}}}}
		}},
		{"alias", "labels: {a: &x '$$1', b: *x}", func(c *sample) { c.Labels = map[string]string{"a": "$1", "b": "$1"} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := defaults()
			tt.want(&want)
			got, err := load(t, tt.give)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Load() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadMistakes(t *testing.T) {
	tests := []struct{ name, give, want string }{
		{"no map", "- a", "line 1: want keys with values, have a list"},
		{"bad YAML", "site: x\n\tidle: 1", "line 2: not valid YAML: found a tab character that violates indentation"},
		{"two documents", "site: a\n---\nsite: b", "want one YAML document, have 2"},
		{"text for a section", "gateway: on", `line 1: gateway: want keys with values, have "on"`},
		{"section for a text", "site: {a: b}", "line 1: site: want a single value, have keys with values"},
		{"text for a list", "bridges: x", `line 1: bridges: want a list, have "x"`},
		{"text for a number", "sample: lots", `line 1: sample: want a number, have "lots"`},
		{"text for a flag", "gateway: {tls: maybe}", `line 1: gateway.tls: want true or false, have "maybe"`},
		{"fraction for a whole number", "bridges: [{name: b, batch: 1.5}]", `line 1: bridges[0].batch: want a whole number, have "1.5"`},
		{"number without a unit", "gateway:\n  idle: 30", `line 2: gateway.idle: want a duration such as 250ms, 30s, 1h30m or 7d, have "30"`},
		{"rule on a default", "bridges:\n  - batch: 1", `line 2: bridges[0].name: want 1 to 63 letters, digits, - or _, have ""`},
		{"unknown without a likely one", "bridges: [{name: b, zzzzzz: 1}]", "line 1: bridges[0].zzzzzz: unknown key; known here: name, batch, kafka"},
		{"merge key", "gateway: {<<: {tls: true}}", "line 1: gateway.<<: unknown key; known here: listen, idle, maxBody, key, tls"},
		{"open brace", "site: ${SITE", "line 1: site: ${ without }; write $$ for a plain $"},
		{"no name", "site: ${a b}", "line 1: site: want ${NAME}, ${NAME:-default} or ${file:/path}, have ${a b}"},
		{"no file", "site: ${file:/no/such}", "line 1: site: open /no/such: no such file or directory"},
		{"repeated label", "labels:\n  a: 1\n  a: 2", "line 3: labels.a: repeated key, first on line 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.give)
			if errText(err) != tt.want {
				t.Errorf("Load() error (-want +got):\n%s", cmp.Diff(tt.want, errText(err)))
			}
			if diff := cmp.Diff(defaults(), got); diff != "" {
				t.Errorf("Load() changed the defaults though it failed:\n%s", diff)
			}
		})
	}
}

func TestLoadBoundsAliases(t *testing.T) {
	type nested struct {
		A map[string][][][][][]string `yaml:"a"`
		B any                         `yaml:"b"`
	}
	ten := func(s string) string { return "[" + strings.Repeat(s+", ", 20) + "]" }
	bomb := "b:\n - &a " + ten("x") + "\n - &b " + ten("*a") + "\n - &c " + ten("*b") + "\n - &d " + ten("*c") + "\n - &e " + ten("*d") + "\n"
	for _, text := range []string{bomb, "b: &a [*a]"} {
		var cfg nested
		err := conf.Load([]byte(text), &cfg, env)
		if want := "too large: more than 100000 values"; errText(err) != want {
			t.Errorf("Load(%.20q…) error = %v, want %s", text, err, want)
		}
	}
}

func TestLoadFileNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weft.yaml")
	if err := os.WriteFile(path, []byte("site: 'a b'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := defaults()
	err := conf.LoadFile(path, &cfg, env)
	if want := path + `:1: site: want 1 to 63 letters, digits, - or _, have "a b"`; errText(err) != want {
		t.Errorf("LoadFile() error = %v, want %s", err, want)
	}
	var e *conf.Error
	if !errors.As(err, &e) || len(e.Mistakes) != 1 || e.Mistakes[0].Line != 1 {
		t.Errorf("LoadFile() error = %#v, want one mistake on line 1", err)
	}
	if err := conf.LoadFile(path+".none", &cfg, env); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("LoadFile() of a missing file = %v, want ErrNotExist", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("site: ${SITE}\ngateway: {idle: 7d, maxBody: 1MiB}\nbridges: [{name: a}]\nlabels: {a: &x b, c: *x}\n")
	f.Add("a: &a [*a]\n<<: 1\n")
	f.Add("? [a]\n: ${file:/dev/null}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "file:") {
			t.Skip("reads files of the machine")
		}
		cfg := defaults()
		err := conf.Load([]byte(text), &cfg, env)
		if err != nil && !cmp.Equal(cfg, defaults()) {
			t.Errorf("Load(%q) failed with %v but changed the configuration", text, err)
		}
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
