package conf_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"weft.dev/weft/internal/conf"
)

func TestDuration(t *testing.T) {
	tests := []struct {
		give string
		want time.Duration
		text string // empty: refused
	}{
		{"250ms", 250 * time.Millisecond, "250ms"},
		{"30s", 30 * time.Second, "30s"},
		{"90s", 90 * time.Second, "1m30s"},
		{"60m", time.Hour, "1h"},
		{"2m0s", 2 * time.Minute, "2m"},
		{"7d", 7 * 24 * time.Hour, "7d"},
		{"168h", 7 * 24 * time.Hour, "7d"},
		{"1d12h", 36 * time.Hour, "36h"},
		{"1.5d", 36 * time.Hour, "36h"},
		{"0", 0, "0s"},
		{"30", 0, ""},
		{"-1s", 0, ""},
		{"1d-1h", 0, ""},
		{"1d+1h", 0, ""},
		{"d", 0, ""},
		{"99999999d", 0, ""},
		{"", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			var d conf.Duration
			err := d.UnmarshalText([]byte(tt.give))
			if tt.text == "" {
				if err == nil {
					t.Fatalf("accepted as %v", d)
				}
				return
			}
			if err != nil || d.Std() != tt.want || d.String() != tt.text {
				t.Errorf("= %v %q, %v, want %v %q", d.Std(), d, err, tt.want, tt.text)
			}
		})
	}
}

func TestSize(t *testing.T) {
	tests := []struct {
		give string
		want int64
		text string // empty: refused
	}{
		{"512B", 512, "512B"},
		{"1MiB", 1 << 20, "1MiB"},
		{"1.5GiB", 3 << 29, "1536MiB"},
		{"50 GiB", 50 << 30, "50GiB"},
		{"500kB", 500_000, "500kB"},
		{"10MB", 10_000_000, "10MB"},
		{"0", 0, "0B"},
		{"1024", 0, ""},
		{"1KB", 0, ""},
		{"-1B", 0, ""},
		{"1e3B", 0, ""},
		{"9999999TiB", 0, ""},
		{"MiB", 0, ""},
		{"", 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			var s conf.Size
			err := s.UnmarshalText([]byte(tt.give))
			if tt.text == "" {
				if err == nil {
					t.Fatalf("accepted as %v", s)
				}
				return
			}
			if err != nil || s.Bytes() != tt.want || s.String() != tt.text {
				t.Errorf("= %d %q, %v, want %d %q", s.Bytes(), s, err, tt.want, tt.text)
			}
		})
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	type holder struct {
		Key  conf.Secret
		Many []conf.Secret
		Map  map[string]conf.Secret
	}
	const value = "s3cret"
	h := holder{Key: value, Many: []conf.Secret{value}, Map: map[string]conf.Secret{"a": value}}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", h.Key, "holder", h)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", h.Key, "holder", h)
	inJSON, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	inYAML, err := yaml.Dump(h)
	if err != nil {
		t.Fatal(err)
	}
	printed := []string{log.String(), string(inJSON), string(inYAML), h.Key.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed = append(printed, fmt.Sprintf(verb, h))
	}
	for _, p := range printed {
		if strings.Contains(p, value) || strings.Contains(p, fmt.Sprintf("%x", value)) || !strings.Contains(p, "[redacted]") {
			t.Errorf("printed as %s", p)
		}
	}
	if h.Key.Reveal() != value {
		t.Errorf("Reveal() = %q, want the value", h.Key.Reveal())
	}
	if got := conf.Secret("").String(); got != "" {
		t.Errorf("empty secret printed as %q", got)
	}
}

func TestChecks(t *testing.T) {
	tests := []struct {
		name string
		give error
		want string // empty: accepted
	}{
		{"host and port", conf.HostPort("a", "127.0.0.1:0"), ""},
		{"every interface", conf.HostPort("a", ":80"), ""},
		{"IPv6", conf.HostPort("a", "[::1]:80"), ""},
		{"no port", conf.HostPort("a", "localhost"), `a: want host:port, such as 127.0.0.1:8280, have "localhost"`},
		{"port too large", conf.HostPort("a", "h:65536"), `a: want host:port, such as 127.0.0.1:8280, have "h:65536"`},
		{"URL", conf.URL("u", "https://h/p", "http", "https"), ""},
		{"scheme", conf.URL("u", "ftp://h", "http", "https"), `u: want a URL with http:// or https://, have "ftp://h"`},
		{"password", conf.URL("u", "ftp://me:pw@h", "nats", "tls", "ws"), `u: want a URL with nats://, tls:// or ws://, have "ftp://me:xxxxx@h"`},
		{"unreadable password", conf.URL("u", "ftp://me:p%w@h", "nats"), `u: want a URL with nats://, have "[redacted]"`},
		{"word", conf.OneOf("l", "info", "info", "warn"), ""},
		{"no such word", conf.OneOf("l", "x", "info", "warn"), `l: want info or warn, have "x"`},
		{"set", conf.Required("r", "x"), ""},
		{"not set", conf.Required("r", conf.Secret("")), "r: must be set"},
		{"too few", conf.AtLeast("n", 0, 1), "n: want 1 or more, have 0"},
		{"too long", conf.Between("d", conf.Duration(time.Hour), 0, conf.Duration(time.Minute)), "d: want 0s to 1m, have 1h"},
		{"not a number", conf.Between("n", math.NaN(), 0, 1), "n: want 0 to 1, have NaN"},
		{"nothing under", conf.Under("a", nil), ""},
		{"plain error under", conf.Under("a", errors.New("no")), "a: no"},
		{"wrapped under", conf.Under("a", fmt.Errorf("x: %w", conf.Field("b", "no"))), "a.b: no"},
		{"list under", conf.Under("a", conf.Under(conf.Item("", 2), conf.Field("b", "no"))), "a[2].b: no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := errText(tt.give); got != tt.want {
				t.Errorf("= %q, want %q", got, tt.want)
			}
		})
	}
}

func TestValidateWithoutFile(t *testing.T) {
	cfg := defaults()
	if err := conf.Validate(cfg); err != nil {
		t.Errorf("defaults: %v", err)
	}
	cfg.Site, cfg.Gateway.Idle = "", 0
	want := "gateway.idle: want 1s or more, have 0s\n" + `site: want 1 to 63 letters, digits, - or _, have ""`
	if got := errText(conf.Validate(cfg)); got != want {
		t.Errorf("Validate() = %q, want %q", got, want)
	}
}

func TestDescribe(t *testing.T) {
	type item struct {
		Name string `yaml:"name" doc:"unique name"`
	}
	type section struct {
		Listen string        `yaml:"listen" doc:"where: host|port"`
		Idle   conf.Duration `yaml:"idle" doc:"closed after"`
	}
	type config struct {
		Site    string            `yaml:"site" doc:"this site"`
		Gateway section           `yaml:"gateway" doc:"the gateway"`
		Items   []item            `yaml:"items" doc:"the items"`
		Kafka   *item             `yaml:"kafka"`
		Max     conf.Size         `yaml:"max" doc:"largest"`
		Key     conf.Secret       `yaml:"key" doc:"the key"`
		Tags    map[string]string `yaml:"tags" doc:"tags"`
		Names   []string          `yaml:"names" doc:"names"`
		Bare    int               `yaml:"bare"`
		Hidden  int               `yaml:"-"`
	}
	got, err := conf.Describe(config{
		Site: "local", Gateway: section{Listen: ":1", Idle: conf.Duration(time.Minute)},
		Max: 1 << 20, Key: "s3cret", Names: []string{"a", "b"}, Bare: 3,
	})
	if want := "bare has no doc tag"; errText(err) != want {
		t.Errorf("Describe() error = %v, want %s", err, want)
	}
	want := strings.Join([]string{
		"| Key | Type | Default | Meaning |",
		"|---|---|---|---|",
		"| `site` | text | `local` | this site |",
		"| `gateway` | section |  | the gateway |",
		"| `gateway.listen` | text | `:1` | where: host\\|port |",
		"| `gateway.idle` | duration | `1m` | closed after |",
		"| `items` | list | `[]` | the items |",
		"| `items[].name` | text |  | unique name |",
		"| `kafka.name` | text |  | unique name |",
		"| `max` | size | `1MiB` | largest |",
		"| `key` | secret | `[redacted]` | the key |",
		"| `tags` | map of text | `{}` | tags |",
		"| `names` | list of text | `[a, b]` | names |",
		"| `bare` | number | `3` |  |",
		"",
	}, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Describe() (-want +got):\n%s", diff)
	}
	page, err := conf.Reference(conf.Part{Title: "weft run", Defaults: section{}})
	head, tail := "# Configuration\n", "\n## weft run\n\n| Key | Type | Default | Meaning |\n"
	if err != nil || !strings.HasPrefix(page, head) || !strings.Contains(page, tail) {
		t.Errorf("Reference() = %q, %v, want the title, then the table", page, err)
	}
}
