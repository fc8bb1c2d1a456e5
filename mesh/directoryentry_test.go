package mesh

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"weft.dev/weft/internal/conf"
)

// seeds makes the NKey of a site.
func seeds(t *testing.T) (seed conf.Secret, public string) {
	t.Helper()
	raw, err := newSeed()
	if err != nil {
		t.Fatal(err)
	}
	seed = conf.Secret(raw)
	if public, err = publicKey(seed); err != nil {
		t.Fatal(err)
	}
	return seed, public
}

// signed is an entry's record.
func signed(t *testing.T, e entry, seed conf.Secret) record {
	t.Helper()
	r, err := e.sign(seed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordRefuses(t *testing.T) {
	seed, public := seeds(t)
	other, _ := seeds(t)
	good := entry{Site: "b", Role: roleCore, URLs: []string{"tls://b.example:7422"}, PublicKey: public, Export: []string{">"}, Issued: 1}
	if e, err := signed(t, good, seed).open(); err != nil || !e.same(good) || e.Issued != 1 {
		t.Fatalf("open = %+v, %v", e, err)
	}
	with := func(change func(*entry)) record {
		e := good
		change(&e)
		return signed(t, e, seed)
	}
	changed := signed(t, good, seed)
	changed.Entry = []byte(strings.Replace(string(changed.Entry), "b.example", "c.example", 1))
	bare := signed(t, good, seed)
	pair, err := nkeys.FromSeed([]byte(seed.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	if bare.Sig, err = pair.Sign(bare.Entry); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		give   record
		reason string
	}{
		{"changed after it was signed", changed, "signature"},
		{"signed by another", signed(t, good, other), "signature"},
		{"signed as a nonce is", bare, "signature"},
		{"no key", with(func(e *entry) { e.PublicKey = "UX" }), "signature"},
		{"illegal name", with(func(e *entry) { e.Site = "b.c" }), "format"},
		{"no role", with(func(e *entry) { e.Role = "" }), "format"},
		{"an edge that is dialled", with(func(e *entry) { e.Role = roleEdge }), "format"},
		{"too many addresses", with(func(e *entry) { e.URLs = make([]string, maxURLs+1) }), "format"},
		{"no address", with(func(e *entry) { e.URLs = []string{"http://b"} }), "format"},
		{"addresses of two kinds", with(func(e *entry) { e.URLs = []string{"tls://b:1", "wss://b:2"} }), "format"},
		{"a user in the address", with(func(e *entry) { e.URLs = []string{"tls://u:p@b:1"} }), "format"},
		{"no pattern", with(func(e *entry) { e.Export = []string{"a..b"} }), "format"},
		{"too large", with(func(e *entry) { e.Export = []string{strings.Repeat("x", maxEntry)} }), "size"},
		{"no JSON", record{Entry: []byte("{")}, "format"},
		{"nothing", record{}, "format"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var no *rejection
			if _, err := tt.give.open(); !errors.As(err, &no) || no.reason != tt.reason {
				t.Errorf("open = %v, want a rejection for its %s", err, tt.reason)
			}
		})
	}
}

func TestBookJudges(t *testing.T) {
	now := time.UnixMilli(1_000_000_000)
	_, keyA := seeds(t)
	_, keyB := seeds(t)
	_, keyC := seeds(t)
	b := newBook()
	b.sites["a"] = cell{entry: entry{Site: "a", PublicKey: keyA, URLs: []string{"tls://a:1"}, Issued: 100}}
	b.gone[keyC] = tombstone{Site: "c", PublicKey: keyC, By: "a"}
	full := newBook()
	for i := range maxSites {
		name := fmt.Sprintf("s%d", i)
		full.sites[name] = cell{entry: entry{Site: name, PublicKey: name}}
	}
	tests := []struct {
		name   string
		book   book
		give   entry
		keep   bool
		reason string
	}{
		{"a new site", b, entry{Site: "b", PublicKey: keyB, Issued: 1}, true, ""},
		{"news of a site", b, entry{Site: "a", PublicKey: keyA, Issued: 101}, true, ""},
		{"the same again", b, entry{Site: "a", PublicKey: keyA, Issued: 100}, false, ""},
		{"an older entry", b, entry{Site: "a", PublicKey: keyA, Issued: 99}, false, ""},
		{"a name with another key", b, entry{Site: "a", PublicKey: keyB, Issued: 200}, false, "name"},
		{"a key with another name", b, entry{Site: "b", PublicKey: keyA, Issued: 200}, false, "key"},
		{"another's address", b, entry{Site: "b", PublicKey: keyB, URLs: []string{"tls://a:1"}}, false, "address"},
		{"a forgotten site", b, entry{Site: "c", PublicKey: keyC, Issued: 1 << 40}, false, "forgotten"},
		{"the name of a forgotten site", b, entry{Site: "c", PublicKey: keyB, Issued: 1}, true, ""},
		{"an entry of the future", b, entry{Site: "b", PublicKey: keyB, Issued: now.Add(6 * time.Minute).UnixMilli()}, false, "clock"},
		{"one site too many", full, entry{Site: "b", PublicKey: keyB}, false, "limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var no *rejection
			keep, err := tt.book.judge(tt.give, now)
			if errors.As(err, &no) != (tt.reason != "") || keep != tt.keep || no != nil && no.reason != tt.reason {
				t.Errorf("judge = %v, %v, want %v, %s", keep, err, tt.keep, tt.reason)
			}
		})
	}
}

// All that a directory may hold fits into one message.
func TestDirectoryFitsIntoAMessage(t *testing.T) {
	sites, gone := maxSites*(maxEntry*4/3+64), maxGone*256
	if sealed := (sites+gone)*4/3 + 1<<10; sealed > maxPayload {
		t.Errorf("%d bytes, of %d", sealed, maxPayload)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"site":"b","role":"core","publicKey":"U"}`), []byte("sig"))
	f.Fuzz(func(t *testing.T, raw, sig []byte) {
		if e, err := (record{raw, sig}).open(); err == nil {
			t.Errorf("a record that nobody signed is good: %+v", e)
		}
	})
}
