package event_test

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.dev/weft/event"
)

var t0 = time.Date(2026, 1, 2, 15, 4, 5, 123456000, time.UTC)

// full has every attribute, extensions of every CloudEvents type in their
// canonical string form, and unicode where it is allowed.
func full() event.Event {
	return event.Event{
		ID:              "ord 42/ü \"q\" 100%",
		Source:          "https://shop.example/orders?x=1#f",
		Type:            "orders.created",
		DataContentType: "application/json; charset=utf-8",
		DataSchema:      "https://schemas.example/order/v1",
		Subject:         "Größe €5 😀",
		Time:            "2026-01-02T15:04:05.123456Z",
		Extensions: map[string]string{
			"correlationid": "flow-7",
			"causationid":   "cart-9",
			"traceparent":   "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
			"tracestate":    "a=1,b=2",
			"partitionkey":  "customer-ä",
			"extint":        "-2147483648",
			"extbool":       "true",
			"extbin":        "AAEC/w==",
			"exturi":        "https://a.example/b?c=d%20e",
			"exturiref":     "../x?y=z",
			"exttime":       "2026-01-02T15:04:05Z",
		},
		Data: []byte(`{"id":"ord-42","total":12.50,"note":"<grün> & 'ok'"}`),
	}
}

// ignoring compares events: nil and empty data or maps are the same.
var ignoring = cmp.Options{cmpopts.EquateEmpty()}

func diff(t *testing.T, what string, got, want event.Event) {
	t.Helper()
	if d := cmp.Diff(want, got, ignoring); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// wantField checks that err is a FieldError for field, and of the given kind.
func wantField(t *testing.T, err error, field string) {
	t.Helper()
	fe, ok := asField(err)
	if !ok || fe.Field != field {
		t.Errorf("err = %v, want a field error for %q", err, field)
	}
}

// sameJSON reports whether two data are equal but for insignificant space.
func sameJSON(a, b []byte) bool {
	if !json.Valid(a) || !json.Valid(b) {
		return false
	}
	return compact(a) == compact(b)
}

func compact(b []byte) string {
	var v any
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return "?"
	}
	out, _ := json.Marshal(v)
	return string(out)
}

// parse builds an event from fuzzer text: attributes as name=value&… and data.
func parse(attrs string, data []byte) event.Event {
	e := event.Event{ID: "1", Source: "/s", Type: "t", Data: data}
	q, _ := url.ParseQuery(attrs)
	for _, k := range slices.Sorted(maps.Keys(q)) {
		v := q.Get(k)
		switch k {
		case "id":
			e.ID = v
		case "source":
			e.Source = v
		case "type":
			e.Type = v
		case "subject":
			e.Subject = v
		case "time":
			e.Time = v
		case "datacontenttype":
			e.DataContentType = v
		case "dataschema":
			e.DataSchema = v
		case "specversion", "data", "data_base64":
		default:
			e.SetExtension(k, v)
		}
	}
	return e
}

// seeds are attribute texts for parse.
var seeds = []string{
	"",
	"id=a%2Fb&source=%2Fs%20t&type=x",
	"id=%22q%22&subject=%C3%BC%20%F0%9F%98%80&time=2026-01-02T15:04:05Z",
	"id=100%25&datacontenttype=text%2Fplain&ext=%25zz&partitionkey=k",
	"datacontenttype=application%2Fxml&dataschema=https%3A%2F%2Fa%2Fb",
	"id=%20lead&subject=trail%20&ext=%5C%22",
	"id=%FF&type=%00&Ext=x&e-x=y&traceparent=00-1-2-01",
	"datacontenttype=a%2Fb%3Bc%3D%22%C3%BC%22",
}
