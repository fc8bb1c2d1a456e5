package driver_test

import (
	"strings"
	"testing"

	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/event"
)

func TestTemplate(t *testing.T) {
	rec := &driver.Record{
		Path: "orders.eu.created", Origin: "fra", Topic: "EVENTS",
		Event: event.Event{
			ID: "7", Source: "/shop", Type: "order.created",
			Extensions: map[string]string{"tenant": "Blue Ltd."},
			Headers:    map[string][]string{"Weft-Key": {"k1"}, "X-Region": {"EU"}},
		},
	}
	tests := []struct{ give, want, wantErr string }{
		{"orders", "orders", ""},
		{"orders.{{subject 1}}", "orders.eu", ""},
		{"{{subject}}", "orders.eu.created", ""},
		{"{{ subject 0 }}-{{subject 2|upper}}", "orders-CREATED", ""},
		{"{{header `ce-partitionkey` | default subject}}", "orders.eu.created", ""},
		{"{{header `ce-partitionkey` | default `none`}}", "none", ""},
		{`{{header "x-region" | lower}}`, "eu", ""},
		{"{{header `ce_tenant` | token}}", "Blue_Ltd_", ""},
		{"{{key}}/{{id}}/{{type}}/{{origin}}/{{topic}}", "k1/7/order.created/fra/EVENTS", ""},
		{"{{subject 3}}", "", "subject 3 is empty"},
		{"{{header `nope`}}", "", `header "nope" is empty`},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			tmpl, err := driver.ParseTemplate(tt.give)
			if err != nil {
				t.Fatal(err)
			}
			got, err := tmpl.Render(rec)
			if got != tt.want || (err == nil) != (tt.wantErr == "") || (err != nil && !strings.Contains(err.Error(), tt.wantErr)) {
				t.Errorf("render = %q, %v; want %q, %q", got, err, tt.want, tt.wantErr)
			}
		})
	}
}

func TestTemplateMistakes(t *testing.T) {
	tests := []struct{ give, want string }{
		{"{{subjct 1}}", `unknown function "subjct"; known: header, id, key`},
		{"{{subject 1 | lowr}}", `unknown filter "lowr"; known: default, lower, token, upper`},
		{"{{subject x}}", "subject wants the number of a token"},
		{"{{subject 99}}", "0 to 15, got 99"},
		{"{{header}}", "header wants an argument"},
		{"{{header x}}", "header wants a text in quotes, got x"},
		{"{{id 3}}", "id takes no argument"},
		{"{{subject 1", "{{ without }}"},
		{"a}}b", "}} without {{"},
		{"{{}}", "a function is missing"},
		{"{{id | }}", "a filter is missing"},
		{"{{header `x}}", "is not closed"},
		{"{{id | default nope}}", `unknown function "nope"`},
	}
	for _, tt := range tests {
		t.Run(tt.give, func(t *testing.T) {
			var tmpl driver.Template
			if err := tmpl.UnmarshalText([]byte(tt.give)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"orders.{{subject 1}}", "{{header `a` | default subject}}", "{{", "}}", "{{|}}", "{{\"}}"} {
		f.Add(s)
	}
	rec := &driver.Record{Path: "a.b"}
	f.Fuzz(func(t *testing.T, s string) {
		tmpl, err := driver.ParseTemplate(s)
		if err != nil {
			return
		}
		if _, err := tmpl.Render(rec); err != nil && tmpl.Empty() {
			t.Errorf("an empty template failed: %v", err)
		}
	})
}
