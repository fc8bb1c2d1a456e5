// Package pki makes what sites prove themselves by: a certificate authority,
// certificates of nodes, and NKeys. It is for operators without an authority of
// their own; nodes take certificates of any. No compatibility promise.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/nats-io/nkeys"
)

// early is how far back a certificate begins: clocks of sites differ.
const early = 10 * time.Minute

// Pair is a certificate and its private key in PEM form.
type Pair struct {
	Cert, Key []byte
	NotAfter  time.Time
}

// Request is what a node's certificate shall say.
type Request struct {
	Site  string
	Hosts []string // names and addresses under which others dial the node
	Until time.Time
}

// NewAuthority makes a certificate authority of the given name.
func NewAuthority(name string, until time.Time) (Pair, error) {
	t := template(name, until)
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return sign(t, nil, nil)
}

// Issue makes a certificate with which a node may be dialled and dial itself.
func (ca Pair) Issue(r Request) (Pair, error) {
	cert, key, err := ca.parse()
	if err != nil {
		return Pair{}, err
	}
	if r.Until.After(cert.NotAfter) {
		r.Until = cert.NotAfter
	}
	if !time.Now().Before(r.Until) {
		return Pair{}, fmt.Errorf("the authority's certificate expired on %s", cert.NotAfter.Format(time.DateOnly))
	}
	t := template(r.Site, r.Until)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return sign(t, cert, key)
}

// NKey makes a user's NKey: the seed, which is secret, and the public key.
func NKey() (seed, public string, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", "", fmt.Errorf("make nkey: %w", err)
	}
	defer pair.Wipe()
	raw, err := pair.Seed()
	if err != nil {
		return "", "", fmt.Errorf("make nkey: %w", err)
	}
	public, err = pair.PublicKey()
	return string(raw), public, err
}

func template(name string, until time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name, Organization: []string{"Weft"}},
		NotBefore: time.Now().Add(-early), NotAfter: until,
	}
}

// sign makes a key and its certificate, signed by the authority or by itself.
func sign(t, by *x509.Certificate, with crypto.Signer) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make key: %w", err)
	}
	if by == nil {
		by, with = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, by, key.Public(), with)
	if err != nil {
		return Pair{}, fmt.Errorf("sign certificate: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode key: %w", err)
	}
	return Pair{
		Cert:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}),
		NotAfter: t.NotAfter,
	}, nil
}

func (ca Pair) parse() (*x509.Certificate, crypto.Signer, error) {
	block, _ := pem.Decode(ca.Cert)
	if block == nil {
		return nil, nil, errors.New("the authority's certificate is not in PEM form")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("the authority's certificate: %w", err)
	}
	if !cert.IsCA {
		return nil, nil, errors.New("the authority's certificate may not sign others")
	}
	if block, _ = pem.Decode(ca.Key); block == nil {
		return nil, nil, errors.New("the authority's key is not in PEM form")
	}
	raw, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("the authority's key: %w", err)
	}
	key, ok := raw.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, nil, errors.New("the authority's key is not that of its certificate")
	}
	return cert, key, nil
}

// Read takes a pair from two files.
func Read(cert, key string) (Pair, error) {
	c, err := os.ReadFile(cert)
	if err != nil {
		return Pair{}, err
	}
	k, err := os.ReadFile(key)
	return Pair{Cert: c, Key: k}, err
}

// Write puts the pair into two new files that only their owner can read. It
// overwrites none, and leaves either both or neither.
func (p Pair) Write(cert, key string) error {
	if err := create(key, p.Key); err != nil {
		return err
	}
	if err := create(cert, p.Cert); err != nil {
		return errors.Join(err, os.Remove(key))
	}
	return nil
}

// create writes a file that was not there.
func create(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already: remove it, or write to another directory", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
