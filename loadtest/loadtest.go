// Package loadtest is the load generator behind `weft load`: scenarios against
// a running node, with latency histograms and a count of what was lost or came
// twice. It talks to the URLs it is given and to nothing else, and stops on a
// node what it started there. It is no benchmark framework: scenarios are an
// explicit list. No compatibility promise.
package loadtest

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"weft.dev/weft/event"
)

// Scenario describes one scenario for help texts.
type Scenario struct {
	Name    string
	Summary string
	Example string
}

// Scenarios lists all scenarios in the order of help.
func Scenarios() []Scenario {
	return []Scenario{
		{"publish", "HTTP publishes over N connections: rate, latency, errors; with --compare against a second node", "weft load publish --connections 64 --duration 10s"},
		{"fanout", "N WebSockets over K subjects at a rate: deliveries, latency, lost and duplicated", "weft load fanout --sockets 1000 --subjects 10 --rate 500"},
		{"webhook", "webhook endpoints on own loopback receivers: deliveries, latency, lost and duplicated", "weft load webhook --endpoints 10 --duration 10s"},
		{"nats", "plain NATS clients publish to a stream on the node and on a second NATS server in turns: what embedding costs", "weft load nats --nats nats://127.0.0.1:4222 --compare nats://127.0.0.1:5222"},
		{"bridge", "mesh to Kafka: publishes on a bridged subject, reads the topic, checks order per key", "weft load bridge --brokers 127.0.0.1:9092 --topic orders --subject orders.load"},
	}
}

// Limits that keep a slip of the finger from taking the machine down.
const (
	maxConnections = 10_000
	maxSockets     = 100_000
	maxStreams     = 9_999 // four digits in the stamp
)

// Target is a node's HTTP API.
type Target struct {
	Server string // base URL, such as http://127.0.0.1:8281
	Token  string // bearer token, or empty
}

// Load is what every scenario has in common.
type Load struct {
	Target
	Duration    time.Duration // measured time, after Warmup
	Warmup      time.Duration
	Rate        float64 // events per second over all connections (open loop); 0: as fast as answers come (closed loop)
	Size        int     // bytes of each event's data
	Connections int     // publishing connections
	// Grace is how long deliveries may take after the last publish before they
	// count as lost. Scenarios without deliveries ignore it.
	Grace time.Duration
}

func (l Load) validate() error {
	return errors.Join(
		checkServer("server", l.Server),
		check(l.Duration > 0 && l.Duration <= 24*time.Hour, "duration", "more than 0, at most 24h"),
		check(l.Warmup >= 0 && l.Warmup <= time.Hour, "warmup", "0 to 1h"),
		check(l.Grace >= 0 && l.Grace <= time.Hour, "grace", "0 to 1h"),
		check(l.Rate >= 0, "rate", "0 or more events per second"),
		check(l.Size >= minSize && l.Size <= event.MaxData, "size", fmt.Sprintf("%d to %d bytes", minSize, event.MaxData)),
		check(l.Connections > 0 && l.Connections <= maxConnections, "connections", fmt.Sprintf("1 to %d", maxConnections)),
		check(!strings.ContainsAny(l.Token, "\r\n"), "token", "a token on one line"),
	)
}

func checkServer(field, server string) error {
	u, err := url.Parse(server)
	ok := err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && u.User == nil
	return check(ok, field, "a URL such as http://127.0.0.1:8281")
}

func check(ok bool, field, want string) error {
	if ok {
		return nil
	}
	return event.Reject(field, want)
}

// newRun is the id that tells the events of this run from all others.
func newRun() string {
	var b [runLen / 2]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
