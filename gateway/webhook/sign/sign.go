// Package sign makes and checks Standard Webhooks signatures (specification
// 1.0.0): v1 is HMAC-SHA256 with a shared secret, v1a is ed25519 with a key
// pair. It does no I/O and knows no clock. No compatibility promise.
//
// The signed text is `id + "." + timestamp + "." + body`; the header
// webhook-signature holds one `version,base64` entry per active key, separated
// by spaces, so that keys rotate without a gap.
package sign

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Version names a signature scheme as it stands in the header.
type Version string

const (
	// V1 is HMAC-SHA256.
	V1 Version = "v1"
	// V1A is ed25519.
	V1A Version = "v1a"
)

// Header names of a signed request.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

const (
	prefixSecret  = "whsec_"
	prefixPrivate = "whsk_"
	prefixPublic  = "whpk_"

	// The specification asks for 24 to 64 random bytes; 32 match the hash.
	minSecret, maxSecret, newSecret = 24, 64, 32
)

// ErrMismatch says that no entry of a signature header fits any key.
var ErrMismatch = errors.New("signature does not match")

// Key is one signing or verifying key. The zero value signs nothing. It never
// prints its secret; Text does that on purpose.
type Key struct {
	version Version
	secret  []byte             // V1
	private ed25519.PrivateKey // V1A; nil in a public key
	public  ed25519.PublicKey  // V1A
}

// Generate makes a fresh key of the given version.
func Generate(v Version) Key {
	if v == V1A {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(err) // crypto/rand never fails on supported systems
		}
		return Key{version: V1A, private: private, public: public}
	}
	secret := make([]byte, newSecret)
	_, _ = rand.Read(secret) // never fails
	return Key{version: V1, secret: secret}
}

// Parse reads a key in its text form: whsec_ (shared secret), whsk_ (ed25519
// seed, or seed and public key) or whpk_ (ed25519 public key), then base64.
// Errors never contain the text.
func Parse(text string) (Key, error) {
	switch {
	case strings.HasPrefix(text, prefixSecret):
		raw, err := decode(text[len(prefixSecret):])
		if err != nil || len(raw) < minSecret || len(raw) > maxSecret {
			return Key{}, fmt.Errorf("parse secret: want whsec_ and base64 of %d to %d bytes", minSecret, maxSecret)
		}
		return Key{version: V1, secret: raw}, nil
	case strings.HasPrefix(text, prefixPrivate):
		raw, err := decode(text[len(prefixPrivate):])
		if err != nil || len(raw) != ed25519.SeedSize && len(raw) != ed25519.PrivateKeySize {
			return Key{}, errors.New("parse private key: want whsk_ and base64 of 32 or 64 bytes")
		}
		private := ed25519.NewKeyFromSeed(raw[:ed25519.SeedSize])
		if len(raw) == ed25519.PrivateKeySize && !bytes.Equal(private, raw) {
			return Key{}, errors.New("parse private key: public half does not belong to the seed")
		}
		return Key{version: V1A, private: private, public: private.Public().(ed25519.PublicKey)}, nil
	case strings.HasPrefix(text, prefixPublic):
		raw, err := decode(text[len(prefixPublic):])
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return Key{}, errors.New("parse public key: want whpk_ and base64 of 32 bytes")
		}
		return Key{version: V1A, public: raw}, nil
	}
	return Key{}, errors.New("parse key: want a text that starts with whsec_, whsk_ or whpk_")
}

// decode accepts base64 with and without padding, as the official libraries
// differ in what they print.
func decode(s string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
}

// Version says which scheme the key is for.
func (k Key) Version() Version { return k.version }

// Text is the key with its secret, in the form Parse reads.
func (k Key) Text() string {
	switch {
	case k.private != nil:
		return prefixPrivate + base64.StdEncoding.EncodeToString(k.private)
	case k.public != nil:
		return prefixPublic + base64.StdEncoding.EncodeToString(k.public)
	}
	return prefixSecret + base64.StdEncoding.EncodeToString(k.secret)
}

// Public is the whpk_ text of an ed25519 key and empty for a shared secret.
func (k Key) Public() string {
	if k.public == nil {
		return ""
	}
	return prefixPublic + base64.StdEncoding.EncodeToString(k.public)
}

// String hides the secret.
func (k Key) String() string { return string(k.version) + ":hidden" }

// GoString hides the secret.
func (k Key) GoString() string { return k.String() }

// LogValue hides the secret.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// Signature is the value of the webhook-signature header for one attempt.
// Keys that cannot sign are left out.
func Signature(keys []Key, id string, at time.Time, body []byte) string {
	head := id + "." + strconv.FormatInt(at.Unix(), 10) + "."
	text := make([]byte, 0, 2*108)
	var joined []byte // ed25519 needs the whole text in one piece; made once
	for _, k := range keys {
		var sum []byte
		switch {
		case k.version == V1:
			sum = k.mac(head, body)
		case k.private != nil:
			if joined == nil {
				joined = append(append(make([]byte, 0, len(head)+len(body)), head...), body...)
			}
			sum = ed25519.Sign(k.private, joined)
		default:
			continue
		}
		if len(text) > 0 {
			text = append(text, ' ')
		}
		text = append(append(text, k.version...), ',')
		text = base64.StdEncoding.AppendEncode(text, sum)
	}
	return string(text)
}

func (k Key) mac(head string, body []byte) []byte {
	h := hmac.New(sha256.New, k.secret)
	_, _ = h.Write([]byte(head)) // a hash never fails
	_, _ = h.Write(body)
	return h.Sum(nil)
}

// Received is what a signed request carries.
type Received struct {
	ID, Timestamp, Signature string
	Body                     []byte
}

// Verify checks a received request against any of the keys. The timestamp may
// be off by tolerance in both directions; the official libraries use 5 minutes.
func Verify(keys []Key, r Received, now time.Time, tolerance time.Duration) error {
	if r.ID == "" {
		return errors.New("verify webhook: header webhook-id is missing")
	}
	sec, err := strconv.ParseInt(r.Timestamp, 10, 64)
	if err != nil {
		return errors.New("verify webhook: header webhook-timestamp is no unix time in seconds")
	}
	if d := now.Sub(time.Unix(sec, 0)); d > tolerance || d < -tolerance {
		return fmt.Errorf("verify webhook: timestamp is off by %s, allowed are %s", d.Round(time.Second), tolerance)
	}
	head := r.ID + "." + r.Timestamp + "."
	for entry := range strings.FieldsSeq(r.Signature) {
		version, text, ok := strings.Cut(entry, ",")
		if !ok {
			continue
		}
		sum, err := decode(text)
		if err != nil {
			continue
		}
		for _, k := range keys {
			if string(k.version) == version && k.fits(head, r.Body, sum) {
				return nil
			}
		}
	}
	return fmt.Errorf("verify webhook: %w", ErrMismatch)
}

func (k Key) fits(head string, body, sum []byte) bool {
	if k.version == V1 {
		return hmac.Equal(k.mac(head, body), sum)
	}
	return ed25519.Verify(k.public, append([]byte(head), body...), sum)
}
