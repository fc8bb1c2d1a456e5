package sign_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	standard "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"weft.dev/weft/gateway/webhook/sign"
)

// The official vectors: v1 from the Standard Webhooks Go library, v1a from the
// only public server that signs with ed25519.
const (
	vectorID      = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorBody    = `{"test": 2432232314}`
	vectorSecret  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	vectorV1      = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	vectorPrivate = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
	vectorPublic  = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
	vectorV1A     = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
)

var vectorTime = time.Unix(1614265330, 0)

func parse(t *testing.T, text string) sign.Key {
	t.Helper()
	k, err := sign.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignature(t *testing.T) {
	v1, v1a := parse(t, vectorSecret), parse(t, vectorPrivate)
	tests := []struct {
		name string
		give []sign.Key
		want string
	}{
		{"v1", []sign.Key{v1}, vectorV1},
		{"v1a", []sign.Key{v1a}, vectorV1A},
		{"both", []sign.Key{v1, v1a}, vectorV1 + " " + vectorV1A},
		{"a public key signs nothing", []sign.Key{parse(t, vectorPublic), v1}, vectorV1},
		{"none", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := sign.Signature(tt.give, vectorID, vectorTime, []byte(vectorBody)); got != tt.want {
				t.Errorf("Signature = %q, want %q", got, tt.want)
			}
		})
	}
	if got := v1a.Public(); got != vectorPublic {
		t.Errorf("Public = %q, want %q", got, vectorPublic)
	}
}

func TestVerify(t *testing.T) {
	good := sign.Received{
		ID: vectorID, Timestamp: "1614265330", Signature: "v1,bm9wZQ== v9,x " + vectorV1, Body: []byte(vectorBody),
	}
	with := func(f func(*sign.Received)) sign.Received { r := good; f(&r); return r }
	keys := []sign.Key{sign.Generate(sign.V1), parse(t, vectorSecret), parse(t, vectorPublic)}
	tests := []struct {
		name string
		give sign.Received
		at   time.Duration
		ok   bool
	}{
		{"v1 among others", good, 0, true},
		{"v1a", with(func(r *sign.Received) { r.Signature = vectorV1A }), 0, true},
		{"late inside tolerance", good, 5 * time.Minute, true},
		{"too late", good, 5*time.Minute + time.Second, false},
		{"from the future", good, -6 * time.Minute, false},
		{"body changed", with(func(r *sign.Received) { r.Body = []byte("{}") }), 0, false},
		{"id changed", with(func(r *sign.Received) { r.ID = "x" }), 0, false},
		{"id missing", with(func(r *sign.Received) { r.ID = "" }), 0, false},
		{"timestamp no number", with(func(r *sign.Received) { r.Timestamp = "now" }), 0, false},
		{"v1 signature under v1a", with(func(r *sign.Received) { r.Signature = "v1a" + vectorV1[2:] }), 0, false},
		{"no signature", with(func(r *sign.Received) { r.Signature = "" }), 0, false},
		{"broken base64", with(func(r *sign.Received) { r.Signature = "v1,%%%" }), 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := sign.Verify(keys, tt.give, vectorTime.Add(tt.at), 5*time.Minute)
			if (err == nil) != tt.ok {
				t.Errorf("Verify = %v, want ok %v", err, tt.ok)
			}
		})
	}
	err := sign.Verify(keys[:1], good, vectorTime, time.Minute)
	if !errors.Is(err, sign.ErrMismatch) {
		t.Errorf("Verify with another secret = %v, want ErrMismatch", err)
	}
}

func TestParseRefuses(t *testing.T) {
	short := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 23))
	long := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65))
	torn := []byte(vectorPrivate)
	torn[60]++
	for _, give := range []string{"", "secret", "whsec_", "whsec_%", short, long, "whsk_AAAA", "whpk_AAAA", string(torn)} {
		if _, err := sign.Parse(give); err == nil {
			t.Errorf("Parse(%q) succeeded", give)
		} else if give != "" && strings.Contains(err.Error(), give) && len(give) > 6 {
			t.Errorf("Parse error shows the text: %v", err)
		}
	}
}

func TestKeyHidesSecret(t *testing.T) {
	for _, v := range []sign.Version{sign.V1, sign.V1A} {
		k := sign.Generate(v)
		back := parse(t, k.Text())
		if back.Text() != k.Text() || back.Version() != v {
			t.Errorf("%s: text form does not round trip", v)
		}
		secret := strings.SplitN(k.Text(), "_", 2)[1]
		for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, k), k.LogValue().String()} {
			if strings.Contains(s, secret) {
				t.Errorf("%s: printed key shows its secret", v)
			}
		}
	}
}

// TestOfficialGo holds our v1 against the official Go library, both ways.
func TestOfficialGo(t *testing.T) {
	old, current := sign.Generate(sign.V1), sign.Generate(sign.V1)
	keys := []sign.Key{current, old, sign.Generate(sign.V1A)}
	now, body := time.Now(), []byte("{\"täst\": \"\u2028 ✓\"}")
	for _, k := range keys[:2] {
		official, err := standard.NewWebhook(k.Text())
		if err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		h.Set(sign.HeaderID, "msg_1")
		h.Set(sign.HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
		h.Set(sign.HeaderSignature, sign.Signature(keys, "msg_1", now, body))
		if err := official.Verify(body, h); err != nil {
			t.Errorf("official library refuses our signature: %v", err)
		}
		theirs, err := official.Sign("msg_2", now, body)
		if err != nil {
			t.Fatal(err)
		}
		r := sign.Received{ID: "msg_2", Timestamp: strconv.FormatInt(now.Unix(), 10), Signature: theirs, Body: body}
		if err := sign.Verify(keys, r, now, time.Minute); err != nil {
			t.Errorf("we refuse the official signature: %v", err)
		}
	}
}

// TestEd25519 checks v1a without our own Verify.
func TestEd25519(t *testing.T) {
	k := sign.Generate(sign.V1A)
	public, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(k.Public(), "whpk_"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimPrefix(sign.Signature([]sign.Key{k}, "a", time.Unix(7, 0), []byte("b")), "v1a,")
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	if !ed25519.Verify(public, []byte("a.7.b"), sum) {
		t.Error("signature does not verify with crypto/ed25519")
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("msg_1", "1614265330", vectorV1, []byte(vectorBody))
	f.Add("", "-1", "v1, v1a,", []byte(nil))
	keys := []sign.Key{sign.Generate(sign.V1), sign.Generate(sign.V1A)}
	f.Fuzz(func(t *testing.T, id, ts, sig string, body []byte) {
		r := sign.Received{ID: id, Timestamp: ts, Signature: sig, Body: body}
		if err := sign.Verify(keys, r, vectorTime, time.Hour); err == nil {
			t.Error("a signature by nobody was accepted")
		}
	})
}

func BenchmarkSignature(b *testing.B) {
	body := make([]byte, 512)
	for _, v := range []sign.Version{sign.V1, sign.V1A} {
		keys := []sign.Key{sign.Generate(v)}
		b.Run(string(v), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				sign.Signature(keys, vectorID, vectorTime, body)
			}
		})
	}
}
