// Package app puts a node together: it reads one configuration, opens the
// listeners and stacks the roles on the mesh. It makes no compatibility promise.
package app

import (
	"errors"
	"os"

	"weft.dev/weft/bridge"
	"weft.dev/weft/gateway"
	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/mesh"
)

// Config is the whole configuration of a node: one YAML file.
type Config struct {
	Site      string          `yaml:"site" doc:"Name of the site: letters, digits, _ and -"`
	Node      string          `yaml:"node" doc:"Name of the node, stable and unique in the site; default: host name"`
	Data      string          `yaml:"data" doc:"Directory for everything that is kept; it belongs to this node alone"`
	Mesh      mesh.Config     `yaml:"mesh"`
	Gateway   Gateway         `yaml:"gateway"`
	Bridges   []bridge.Config `yaml:"bridges" doc:"Bridges that run on this node"`
	Admin     Admin           `yaml:"admin"`
	Telemetry Telemetry       `yaml:"telemetry"`
}

// Gateway is the public API and the webhooks behind it.
type Gateway struct {
	gateway.Config `yaml:",inline"`
	Webhooks       webhook.Config `yaml:"webhooks"`
}

// Admin is the listener of the console, its API, metrics and health.
type Admin struct {
	Listen string `yaml:"listen" doc:"Address of the console, /api, /metrics, /healthz, /readyz and /v1; keep it on loopback"`
}

// Telemetry is what the node tells about itself and about events.
type Telemetry struct {
	OTLP   OTLP   `yaml:"otlp"`
	Traces Traces `yaml:"traces"`
	Log    Log    `yaml:"log"`
}

// OTLP is where spans are exported to.
type OTLP struct {
	Endpoint string                 `yaml:"endpoint" doc:"OTLP/HTTP receiver such as http://collector:4318; empty: no export"`
	Headers  map[string]conf.Secret `yaml:"headers" doc:"Headers sent with every export"`
	Listen   string                 `yaml:"listen" doc:"Address that takes OTLP/HTTP from services of the site, such as 127.0.0.1:4318; empty: none"`
}

// Traces is the sampling and the store of spans.
type Traces struct {
	Sample       float64    `yaml:"sample" doc:"Share of the traces that begin here which are kept, 0 to 1"`
	MaxPerSecond int        `yaml:"maxPerSecond" doc:"Most traces that begin here which are kept each second; 0: no limit"`
	Store        TraceStore `yaml:"store"`
}

// TraceStore bounds the spans kept in memory; the oldest trace goes first.
type TraceStore struct {
	MaxAge   conf.Duration `yaml:"maxAge" doc:"How long spans are kept"`
	MaxBytes conf.Size     `yaml:"maxBytes" doc:"Memory for spans"`
}

// Log is the log on standard error.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// DefaultConfig is one node, site "local", all roles, loopback only.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil || conf.Name("node", host) != nil {
		host = "local-1"
	}
	return Config{
		Site:    "local",
		Node:    host,
		Data:    "./weft-data",
		Mesh:    mesh.DefaultConfig(),
		Gateway: Gateway{Config: gateway.DefaultConfig(), Webhooks: webhook.DefaultConfig()},
		Admin:   Admin{Listen: "127.0.0.1:8281"},
		Telemetry: Telemetry{
			Traces: Traces{Sample: 0.1, MaxPerSecond: 100, Store: TraceStore{MaxAge: conf.Duration(48 * 3600e9), MaxBytes: 64 << 20}},
			Log:    Log{Level: "info", Format: "text"},
		},
	}
}

// Validate names every key that cannot work.
func (c Config) Validate() error {
	errs := []error{
		conf.Name("site", c.Site), // each is one token of a subject
		conf.Name("node", c.Node),
		conf.Required("data", c.Data),
		conf.Under("mesh", c.Mesh.ValidateAt(c.Site)),
		conf.Under("gateway", c.Gateway.Config.Validate()),
		conf.Under("gateway.webhooks", c.Gateway.Webhooks.Validate()),
		conf.HostPort("admin.listen", c.Admin.Listen),
		conf.Between("telemetry.traces.sample", c.Telemetry.Traces.Sample, 0, 1),
		conf.AtLeast("telemetry.traces.maxPerSecond", c.Telemetry.Traces.MaxPerSecond, 0),
		conf.AtLeast("telemetry.traces.store.maxBytes", c.Telemetry.Traces.Store.MaxBytes, 1<<20),
		conf.OneOf("telemetry.log.level", c.Telemetry.Log.Level, "debug", "info", "warn", "error"),
		conf.OneOf("telemetry.log.format", c.Telemetry.Log.Format, "text", "json"),
	}
	if e := c.Telemetry.OTLP.Endpoint; e != "" {
		errs = append(errs, conf.URL("telemetry.otlp.endpoint", e, "http", "https"))
	}
	if l := c.Telemetry.OTLP.Listen; l != "" {
		errs = append(errs, conf.HostPort("telemetry.otlp.listen", l))
	}
	errs = append(errs, bridge.ValidateAll("bridges", c.Bridges))
	return errors.Join(errs...)
}
