package mesh

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"weft.dev/weft/internal/conf"
)

// TLS is how nodes and sites prove themselves to each other: both ends of a
// connection show a certificate of the same authority.
type TLS struct {
	CA   string `yaml:"ca" doc:"File with the certificate of the authority that all nodes and linked sites share (PEM); empty with cert and key: no TLS"`
	Cert string `yaml:"cert" doc:"File with this node's certificate, for both servers and clients (PEM)"`
	Key  string `yaml:"key" doc:"File with the certificate's private key (PEM)"`
}

// tlsTimeout is how long a handshake may take: slow links need several round trips.
const tlsTimeout = 5 * time.Second

// On tells whether there are certificates.
func (t TLS) On() bool { return t != TLS{} }

func (t TLS) validate() error {
	if !t.On() {
		return nil
	}
	return errors.Join(conf.Required("ca", t.CA), conf.Required("cert", t.Cert), conf.Required("key", t.Key))
}

// Check reads the files and names the key of the first that cannot work.
func (t TLS) Check(now time.Time) error {
	if !t.On() {
		return nil
	}
	_, err := t.load(now)
	return conf.Under("mesh.tls", err)
}

// Block writes the server's configuration of a listener or of what it dials,
// after the word tls. Whoever connects must show a certificate of the authority.
func (t TLS) Block() string {
	return fmt.Sprintf("{ca_file: %q, cert_file: %q, key_file: %q, verify: true, timeout: %d}",
		t.CA, t.Cert, t.Key, int(tlsTimeout.Seconds()))
}

// load is the configuration of a client with these files.
func (t TLS) load(now time.Time) (*tls.Config, error) {
	ca, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, conf.Field("ca", fileError(err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, conf.Field("ca", "want certificates in PEM form in "+t.CA)
	}
	cert, err := os.ReadFile(t.Cert)
	if err != nil {
		return nil, conf.Field("cert", fileError(err))
	}
	key, err := os.ReadFile(t.Key)
	if err != nil {
		return nil, conf.Field("key", fileError(err))
	}
	if block, _ := pem.Decode(cert); block == nil || block.Type != "CERTIFICATE" {
		return nil, conf.Field("cert", "want a certificate in PEM form in "+t.Cert)
	}
	if block, _ := pem.Decode(key); block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		return nil, conf.Field("key", "want a private key in PEM form in "+t.Key)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil { // nearly always: the one is not of the other
		return nil, conf.Field("key", fmt.Sprintf("%s is not the key of the certificate in %s: %v", t.Key, t.Cert, err))
	}
	if err := verify(pair, pool, now); err != nil {
		return nil, conf.Field("cert", err.Error())
	}
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

// verify wants a certificate that peers with the same authority accept.
func verify(pair tls.Certificate, pool *x509.CertPool, now time.Time) error {
	leaf := pair.Leaf
	const day = "2006-01-02 15:04 MST"
	switch {
	case now.After(leaf.NotAfter):
		return fmt.Errorf("the certificate expired on %s", leaf.NotAfter.Format(day))
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("the certificate is valid from %s: is this machine's clock right?", leaf.NotBefore.Format(day))
	}
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(c)
		}
	}
	for use, name := range map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "servers", x509.ExtKeyUsageClientAuth: "clients"} {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}})
		var invalid x509.CertificateInvalidError
		switch {
		case err == nil:
		case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
			return fmt.Errorf("the certificate may not be used by %s", name)
		default:
			return fmt.Errorf("the certificate is not of the authority in mesh.tls.ca: %w", err)
		}
	}
	return nil
}

// fileError is what went wrong with a file, without the name of the system call.
func fileError(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Path + ": " + p.Err.Error()
	}
	return err.Error()
}
