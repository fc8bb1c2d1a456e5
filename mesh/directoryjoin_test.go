package mesh

import (
	"bufio"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"weft.dev/weft/internal/conf"
)

// Of two sites whose directories differ in version each is told both versions of weft.
func TestJoinOfAnotherVersion(t *testing.T) {
	d := &directory{node: &Node{Deps: Deps{Site: "a", Version: "1.0"}}, book: newBook()}
	_, err := d.consider(t.Context(), joinQuestion{Version: directoryVersion + 1, Weft: "2.0"})
	var no *rejection
	if !errors.As(err, &no) || no.reason != "version" || !strings.Contains(no.text, "weft 2.0") || !strings.Contains(no.text, "site a runs 1.0") {
		t.Errorf("consider = %v", err)
	}
	d.book.sites["b"] = cell{entry: entry{Site: "b"}}
	err = d.merge(t.Context(), &link{Link: Link{Name: "b"}}, exchange{Version: directoryVersion + 1, From: "b"})
	if !errors.As(err, &no) || no.reason != "version" {
		t.Errorf("merge = %v", err)
	}
}

// An edge of the mesh lets nobody in: nobody but its homes would hear of it.
func TestJoinByAnEdge(t *testing.T) {
	seed, public := seeds(t)
	d := &directory{cfg: Directory{Role: roleEdge}, node: &Node{Deps: Deps{Site: "a", Now: time.Now}}, book: newBook()}
	q := joinQuestion{Version: directoryVersion, At: time.Now().UnixMilli(), Record: signed(t, entry{Site: "b", Role: roleCore, PublicKey: public}, seed)}
	if _, err := d.consider(t.Context(), q); err == nil || !strings.Contains(err.Error(), "site a is an edge") {
		t.Errorf("consider = %v", err)
	}
}

// Only an answer for this question by a site that knows the secret is taken.
func TestAnswerToAJoin(t *testing.T) {
	d := &directory{cfg: Directory{Secret: "the-secret-of-the-mesh"}}
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	q := joinQuestion{Version: directoryVersion}
	if q.Key, err = curve.PublicKey(); err != nil {
		t.Fatal(err)
	}
	good := joinAnswer{Proof: d.cfg.derive("answer " + q.Key), exchange: exchange{Version: directoryVersion, From: "a"}}
	other, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	forAnother := q
	if forAnother.Key, err = other.PublicKey(); err != nil {
		t.Fatal(err)
	}
	with := func(change func(*joinAnswer)) joinAnswer {
		a := good
		change(&a)
		return a
	}
	tests := []struct {
		name string
		to   joinQuestion
		give joinAnswer
		want string // in the error; empty: none
	}{
		{"good", q, good, ""},
		{"for another", forAnother, good, "cannot be read"},
		{"no proof", q, with(func(a *joinAnswer) { a.Proof = "" }), "does not know the secret"},
		{"proof of another secret", q, with(func(a *joinAnswer) {
			a.Proof = Directory{Secret: conf.Secret("another-secret-of-16")}.derive("answer " + q.Key)
		}), "does not know the secret"},
		{"a refusal", q, with(func(a *joinAnswer) { a.Problem = "site: no" }), "site a does not take this site in: site: no"},
		{"another version", q, with(func(a *joinAnswer) { a.Version = 9 }), "version 9 of the directory"},
		{"for another site", q, with(func(a *joinAnswer) { a.From = "b" }), `site "a" answers for site "b"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := tt.to.seal(tt.give)
			if err != nil {
				t.Fatal(err)
			}
			at := attempt{key: "mesh.links.directory.join[0]", link: Link{Name: "a"}}
			_, err = d.unseal(at, q, curve, raw)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("unseal = %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := d.unseal(attempt{}, q, curve, []byte("{")); err == nil {
		t.Error("an answer that is no JSON is taken")
	}
}

func TestPayload(t *testing.T) {
	tests := []struct{ name, args, rest, want string }{
		{"message", "wl.join.answer.x 5", "hello\r\n", "hello"},
		{"short", "wl.join.answer.x 5", "hel", ""},
		{"negative", "wl.join.answer.x -1", "hello", ""},
		{"huge", "wl.join.answer.x 99999999999", "hello", ""},
		{"no size", "wl.join.answer.x", "hello", ""},
		{"nothing", "", "hello", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := payload(bufio.NewReader(strings.NewReader(tt.rest)), tt.args)
			if (err == nil) != (tt.want != "") || err == nil && string(got) != tt.want {
				t.Errorf("payload = %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// What a site sends about itself stays readable: the names in it are a wire format.
func TestEntryOnTheWire(t *testing.T) {
	e := entry{Site: "b", Role: roleEdge, Homes: []string{"a"}, PublicKey: "U", Export: []string{">"}, Issued: 7}
	raw, err := json.Marshal(e)
	if want := `{"site":"b","role":"edge","homes":["a"],"publicKey":"U","export":["\u003e"],"issued":7}`; err != nil || string(raw) != want {
		t.Errorf("entry = %s, %v, want %s", raw, err, want)
	}
}
