package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/mesh"
)

// What the commands make is what a node takes, is for its owner alone, and is
// never overwritten.
func TestPKI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if r := command(t.Context(), "", "pki", "cert", "--dir", dir, "--site", "fra", "--host", "x"); r.failure == nil || !strings.Contains(r.failure.Error(), "weft pki ca") {
		t.Errorf("without authority: %v", r.failure)
	}
	if r := command(t.Context(), "", "pki", "ca", "--dir", dir); r.failure != nil {
		t.Fatal(r.failure)
	}
	r := command(t.Context(), "", "pki", "cert", "--dir", dir, "--site", "fra", "--host", "fra.example", "--host", "10.0.0.7", "--days", "99999999", "-o", "json")
	if !errors.Is(r.failure, ErrUsage) {
		t.Errorf("--days out of range: %v", r.failure)
	}
	r = command(t.Context(), "", "pki", "cert", "--dir", dir, "--site", "fra", "--host", "fra.example", "--host", "10.0.0.7", "-o", "json")
	var out written
	if err := errors.Join(r.failure, json.Unmarshal([]byte(r.out), &out)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{out.CA, out.Cert, out.Key, filepath.Join(dir, caKey)} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	files := mesh.TLS{CA: out.CA, Cert: out.Cert, Key: out.Key}
	if err := files.Check(time.Now()); err != nil {
		t.Error(err)
	}
	pair, err := tls.LoadX509KeyPair(out.Cert, out.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"fra.example", "10.0.0.7"} {
		if err := pair.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if pair.Leaf.IsCA || pair.Leaf.KeyUsage&x509.KeyUsageCertSign != 0 {
		t.Error("a site's certificate could sign others")
	}
	for _, again := range [][]string{{"pki", "ca", "--dir", dir}, {"pki", "cert", "--dir", dir, "--site", "fra", "--host", "x"}} {
		was, err := os.ReadFile(out.Cert)
		if err != nil {
			t.Fatal(err)
		}
		if r := command(t.Context(), "", again...); r.failure == nil || !strings.Contains(r.failure.Error(), "is there already") {
			t.Errorf("%v a second time: %v", again, r.failure)
		}
		if now, err := os.ReadFile(out.Cert); err != nil || string(now) != string(was) {
			t.Errorf("%v overwrote the certificate: %v", again, err)
		}
	}
	if r := command(t.Context(), "", "pki", "cert", "--dir", dir, "--site", "../x", "--host", "x"); !errors.Is(r.failure, ErrUsage) {
		t.Errorf("a site that is a path: %v", r.failure)
	}
}

func TestPKINKey(t *testing.T) {
	var key struct{ Seed, Public string }
	r := command(t.Context(), "", "pki", "nkey", "-o", "json")
	if err := errors.Join(r.failure, json.Unmarshal([]byte(r.out), &key)); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(key.Seed, "SU") || !strings.HasPrefix(key.Public, "U") {
		t.Errorf("seed %.2s…, public %s", key.Seed, key.Public)
	}
	if r := command(t.Context(), "", "pki", "nkey"); r.failure != nil || strings.Contains(r.out, key.Seed) || !strings.Contains(r.out, "mesh.links.nkey") {
		t.Errorf("text: %q, %v", r.out, r.failure)
	}
}
