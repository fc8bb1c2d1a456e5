// Package kafka is the bridge's Kafka driver: a sink that writes events in the
// binary mode of the CloudEvents Kafka binding with an idempotent producer, and
// a source that reads topics as a consumer group and commits an offset only
// after the event is stored. It decides nothing about order, retry or mapping.
// No compatibility promise.
package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/internal/conf"
)

const (
	dialTimeout  = 5 * time.Second
	checkTimeout = 10 * time.Second
	// metadataMinAge is how soon a client looks again for a leader: it bounds how
	// fast writes go on after a broker has failed.
	metadataMinAge = 500 * time.Millisecond
)

// Cluster is how to reach a Kafka cluster.
type Cluster struct {
	Brokers []string `yaml:"brokers" doc:"Addresses of the cluster, host:port; one is enough to find the others"`
	Cluster string   `yaml:"cluster" doc:"Name of the cluster in the source of events that are no CloudEvents; empty: the first broker's host"`
	TLS     TLS      `yaml:"tls"`
	SASL    SASL     `yaml:"sasl"`
}

// TLS protects the connections to the brokers.
type TLS struct {
	Enabled bool   `yaml:"enabled" doc:"Connect with TLS"`
	CA      string `yaml:"ca" doc:"PEM file with the certificates to trust; empty: those of the system"`
	Cert    string `yaml:"cert" doc:"PEM file with the client's certificate"`
	Key     string `yaml:"key" doc:"PEM file with the client's key"`
}

// SASL authenticates at the brokers.
type SASL struct {
	Mechanism string      `yaml:"mechanism" doc:"PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty: none"`
	User      string      `yaml:"user" doc:"User name"`
	Password  conf.Secret `yaml:"password" doc:"Password"`
}

// Validate names every key that cannot work.
func (c Cluster) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, conf.Field("brokers", "want at least one host:port"))
	}
	for i, b := range c.Brokers {
		errs = append(errs, conf.HostPort(conf.Item("brokers", i), b))
	}
	if c.SASL.Mechanism != "" {
		errs = append(errs,
			conf.OneOf("sasl.mechanism", c.SASL.Mechanism, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
			conf.Required("sasl.user", c.SASL.User),
			conf.Required("sasl.password", c.SASL.Password))
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		errs = append(errs, conf.Field("tls", "want cert and key together"))
	}
	if !c.TLS.Enabled && c.TLS != (TLS{}) {
		errs = append(errs, conf.Field("tls.enabled", "want true when ca, cert or key is set"))
	}
	return errors.Join(errs...)
}

func (c Cluster) name() string {
	if c.Cluster != "" {
		return c.Cluster
	}
	host, _, err := net.SplitHostPort(c.Brokers[0])
	if err != nil {
		return c.Brokers[0]
	}
	return host
}

func (c Cluster) address() string { return strings.Join(c.Brokers, ",") }

// options are those sources and sinks share.
func (c Cluster) options(d driver.Deps) ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...), kgo.ClientID("weft-" + d.Site + "-" + d.Bridge),
		kgo.DialTimeout(dialTimeout), kgo.MetadataMinAge(metadataMinAge), kgo.WithHooks(&health{report: d.Report, cluster: c}),
	}
	if c.TLS.Enabled {
		t, err := c.TLS.load()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(t))
	}
	switch pass := c.SASL.Password.Reveal(); c.SASL.Mechanism {
	case "PLAIN":
		opts = append(opts, kgo.SASL(plain.Auth{User: c.SASL.User, Pass: pass}.AsMechanism()))
	case "SCRAM-SHA-256":
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASL.User, Pass: pass}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		opts = append(opts, kgo.SASL(scram.Auth{User: c.SASL.User, Pass: pass}.AsSha512Mechanism()))
	}
	return opts, nil
}

func (t TLS) load() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read kafka ca: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read kafka ca %s: no certificate in it", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read kafka client certificate: %w", err)
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// explain adds what an operator can do to the errors that need one.
func (c Cluster) explain(topic string, err error) error {
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return fmt.Errorf("topic %q does not exist at %s: %w", topic, c.address(), err)
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("user %q has no right to topic %q: %w", c.SASL.User, topic, err)
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.IllegalSaslState), errors.Is(err, kerr.UnsupportedSaslMechanism):
		return fmt.Errorf("%s refuses user %q (sasl %q): %w", c.address(), c.SASL.User, c.SASL.Mechanism, err)
	case errors.Is(err, io.EOF) && c.SASL.Mechanism != "":
		return fmt.Errorf("%s hangs up: are user %q (sasl %q) and its password right? %w", c.address(), c.SASL.User, c.SASL.Mechanism, err)
	case errors.Is(err, io.EOF) && !c.TLS.Enabled:
		return fmt.Errorf("%s hangs up: does it want tls or sasl? %w", c.address(), err)
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("user %q lacks the right IdempotentWrite: %w", c.SASL.User, err)
	}
	return err
}

// ping connects to any broker, with the reason of the last failure as error.
func (c Cluster) ping(ctx context.Context, cl *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		return fmt.Errorf("connect to kafka %s: %w", c.address(), c.explain("", err))
	}
	return nil
}

// health watches the client's connections: the client retries for ever without
// a word, so this is how a bridge knows that its brokers are away.
type health struct {
	report  func(error)
	cluster Cluster
	failing atomic.Bool
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (h *health) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		h.failing.Store(true)
		h.report(fmt.Errorf("connect to kafka %s: %w", h.cluster.address(), h.cluster.explain("", err)))
	}
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (h *health) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err == nil && h.failing.Load() && h.failing.Swap(false) {
		h.report(nil)
	}
}
