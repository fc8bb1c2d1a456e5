package filter_test

import (
	"strings"
	"testing"

	"weft.dev/weft/gateway/filter"
)

type attributes map[string]string

func (a attributes) Attribute(name string) string { return a[name] }

func TestMatch(t *testing.T) {
	e := attributes{"type": "com.x.shipped", "source": "/eu/fra", "tenant": "a"}
	tests := []struct {
		give string
		want bool
	}{
		{``, true},
		{`{"exact":{"type":"com.x.shipped"}}`, true},
		{`{"exact":{"type":"com.x.shipped","tenant":"b"}}`, false},
		{`{"exact":{"absent":"x"}}`, false},
		{`{"prefix":{"source":"/eu"}}`, true},
		{`{"prefix":{"source":"/us"}}`, false},
		{`{"suffix":{"type":".shipped"}}`, true},
		{`{"suffix":{"type":".created"}}`, false},
		{`{"not":{"exact":{"tenant":"b"}}}`, true},
		{`{"all":[{"exact":{"tenant":"a"}},{"prefix":{"source":"/eu"}}]}`, true},
		{`{"all":[{"exact":{"tenant":"a"}},{"prefix":{"source":"/us"}}]}`, false},
		{`{"any":[{"exact":{"tenant":"b"}},{"prefix":{"source":"/eu"}}]}`, true},
		{`{"any":[{"exact":{"tenant":"b"}},{"prefix":{"source":"/us"}}]}`, false},
		{` [{"exact":{"tenant":"a"}},{"not":{"exact":{"type":"y"}}}]`, true},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			f, err := filter.Parse([]byte(tt.give))
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Match(e); got != tt.want {
				t.Errorf("Match = %v", got)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	deep := strings.Repeat(`{"not":`, 9) + `{"exact":{"a":"b"}}` + strings.Repeat("}", 9)
	tests := []struct{ name, give, want string }{
		{"no JSON", `{`, "want an object with one of exact, prefix, suffix, all, any, not"},
		{"empty", `{}`, "want an object with one of"},
		{"two dialects", `{"exact":{"a":"b"},"not":{}}`, "want an object with one of"},
		{"unknown dialect", `{"regex":{"a":"b"}}`, "regex: want one of the dialects"},
		{"sql", `{"all":[{"sql":"a = 1"}]}`, "all[0].sql: want one of the dialects"},
		{"number", `{"exact":{"type":7}}`, "exact.type: want a string that is not empty"},
		{"empty string", `{"exact":{"type":""}}`, "exact.type: want a string"},
		{"bad name", `{"prefix":{"Type":"x"}}`, "prefix.Type: want an attribute name"},
		{"no attributes", `{"exact":{}}`, "exact: want an object of attribute names"},
		{"empty list", `{"any":[]}`, "any: want an array"},
		{"nested", `{"any":[{"exact":{"a":"b"}},{"not":7}]}`, "any[1].not: want an object"},
		{"too deep", deep, "want at most 8 levels"},
		{"too many", `[` + strings.Repeat(`{"exact":{"a":"b"}},`, 40) + `{"exact":{"a":"b"}}]`, "want at most 64"},
		{"too long", strings.Repeat(" ", filter.MaxBytes+1), "want at most 8192 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := filter.Parse([]byte(tt.give))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"exact":{"type":"x","a":"\u00e4"}}`, `[{"not":{"any":[{"prefix":{"a":"b"}},{"suffix":{"a":"b"}}]}}]`, `{"all":`, `null`, `[[]]`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := filter.Parse(data)
		if err != nil {
			return
		}
		e := attributes{"type": "x", "a": "b"}
		again, err := filter.Parse([]byte(parsed.String()))
		if err != nil {
			// The canonical form can only exceed the byte limit.
			if len(parsed.String()) > filter.MaxBytes {
				return
			}
			t.Fatalf("%s became %s: %v", data, parsed, err)
		}
		if again.String() != parsed.String() || again.Match(e) != parsed.Match(e) {
			t.Fatalf("%s became %s", parsed, again)
		}
	})
}
