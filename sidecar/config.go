package sidecar

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
	"weft.dev/weft/sidecar/policy"
)

// Config is what a sidecar is told about the one app it stands beside.
type Config struct {
	App           App            `yaml:"app"`
	Upstream      Upstream       `yaml:"upstream"`
	Listeners     Listeners      `yaml:"listeners"`
	Publish       []Rule         `yaml:"publish" doc:"Rules for what the app publishes; the first whose subjects match applies, none means no limit"`
	Subscriptions []Subscription `yaml:"subscriptions" doc:"What the app is sent"`
	Drain         Drain          `yaml:"drain"`
	Telemetry     Telemetry      `yaml:"telemetry"`
}

// App is the service behind the sidecar.
type App struct {
	ID         string `yaml:"id" doc:"Name of the app: service.name of its spans, part of consumer and dead-letter names, and the source /<id> of its events"`
	Port       int    `yaml:"port" doc:"Port of the app on 127.0.0.1; needed by subscriptions"`
	HealthPath string `yaml:"healthPath" doc:"Path that answers 2xx when the app works; asked before the first probe of a breaker. Empty: probes begin with a message"`
}

// Upstream is where the mesh is reached.
type Upstream struct {
	URLs        []string    `yaml:"urls" doc:"Nodes of the site: nats:// or tls://"`
	User        string      `yaml:"user" doc:"User name"`
	Password    conf.Secret `yaml:"password" doc:"Password of the user"`
	Token       conf.Secret `yaml:"token" doc:"Token, instead of a user"`
	Credentials string      `yaml:"credentials" doc:"Path of a .creds file, instead of a user"`
	TLS         TLS         `yaml:"tls"`
}

// TLS is the sidecar's side of the connection to a node.
type TLS struct {
	CA   string `yaml:"ca" doc:"Path of the authorities to trust, PEM; empty: those of the system"`
	Cert string `yaml:"cert" doc:"Path of the sidecar's certificate, PEM"`
	Key  string `yaml:"key" doc:"Path of the certificate's key, PEM"`
}

// Listeners are the addresses a sidecar serves.
type Listeners struct {
	API     string `yaml:"api" doc:"Where the app publishes"`
	Metrics string `yaml:"metrics" doc:"/metrics, /healthz and /readyz"`
}

// Rule is a policy for some of the subjects that the app publishes.
type Rule struct {
	Subjects  []string  `yaml:"subjects" doc:"Patterns of the subjects it is for"`
	RateLimit RateLimit `yaml:"rateLimit"`
}

// RateLimit bounds how fast events are published.
type RateLimit struct {
	Rate     policy.Rate   `yaml:"rate" doc:"Events per second, minute or hour: 500/s, 1000/m, 10/h"`
	Burst    int           `yaml:"burst" doc:"Events that may come at once (default: those of one second, at least 1)"`
	OnLimit  string        `yaml:"onLimit" doc:"delay: wait up to maxDelay, then answer 429; reject: answer 429 at once (default delay)"`
	MaxDelay conf.Duration `yaml:"maxDelay" doc:"Longest wait of a delayed publish (default 500ms)"`
}

// Words of RateLimit.OnLimit.
const (
	onLimitDelay  = "delay"
	onLimitReject = "reject"
)

// Subscription is a durable position in the mesh's events whose events are sent
// to the app.
type Subscription struct {
	Name           string         `yaml:"name" doc:"Name of the durable position; pods with the same app and name share the events"`
	Subjects       []string       `yaml:"subjects" doc:"Patterns of the subjects to receive"`
	From           string         `yaml:"from" doc:"Where a new subscription begins: new or all (default new)"`
	Deliver        Deliver        `yaml:"deliver"`
	Timeout        conf.Duration  `yaml:"timeout" doc:"Time for one call to the app (default 10s)"`
	Retry          Retry          `yaml:"retry"`
	CircuitBreaker CircuitBreaker `yaml:"circuitBreaker"`
	DeadLetter     DeadLetter     `yaml:"deadLetter"`
}

// Deliver says how the app gets the events.
type Deliver struct {
	Mode        string `yaml:"mode" doc:"push: one POST to the app per event (default push)"`
	Path        string `yaml:"path" doc:"Path of the app that is posted to (default /)"`
	Concurrency int    `yaml:"concurrency" doc:"Calls at a time; 1 keeps the order while calls succeed (default 16)"`
}

// Retry is the schedule of calls that failed.
type Retry struct {
	MaxAttempts     int           `yaml:"maxAttempts" doc:"Calls that may reach the app before the dead letter (default 8)"`
	InitialInterval conf.Duration `yaml:"initialInterval" doc:"Wait after the first failure; it doubles from there (default 200ms)"`
	MaxInterval     conf.Duration `yaml:"maxInterval" doc:"Longest wait (default 1m)"`
	Jitter          float64       `yaml:"jitter" doc:"Share of a wait that is random, to both sides, up to 1 (default 0.5)"`
}

// CircuitBreaker pauses a subscription whose app fails, in the words of
// Resilience4j.
type CircuitBreaker struct {
	FailureRateThreshold                  float64       `yaml:"failureRateThreshold" doc:"Percentage of failed calls that opens it (default 50)"`
	SlowCallRateThreshold                 float64       `yaml:"slowCallRateThreshold" doc:"Percentage of slow calls that opens it (default 80)"`
	SlowCallDurationThreshold             conf.Duration `yaml:"slowCallDurationThreshold" doc:"A longer call is slow (default 5s)"`
	SlidingWindowType                     string        `yaml:"slidingWindowType" doc:"COUNT_BASED or TIME_BASED (default TIME_BASED)"`
	SlidingWindowSize                     string        `yaml:"slidingWindowSize" doc:"A number of calls, or a duration (default 100 or 10s)"`
	MinimumNumberOfCalls                  int           `yaml:"minimumNumberOfCalls" doc:"Calls in the window below which it stays closed (default 10)"`
	WaitDurationInOpenState               conf.Duration `yaml:"waitDurationInOpenState" doc:"Time until the first probe; doubles with each that fails (default 5s)"`
	MaxWaitDurationInOpenState            conf.Duration `yaml:"maxWaitDurationInOpenState" doc:"Longest time until a probe (default 1m)"`
	PermittedNumberOfCallsInHalfOpenState int           `yaml:"permittedNumberOfCallsInHalfOpenState" doc:"Probes that decide whether it closes (default 3)"`
}

// DeadLetter says what becomes of an event that the app cannot take.
type DeadLetter struct {
	Action string `yaml:"action" doc:"store: keep a copy in the stream WEFT_DLQ and go on; never: retry for ever (default store)"`
}

// Words of DeadLetter.Action.
const (
	deadLetterStore = "store"
	deadLetterNever = "never"
)

// Drain is the orderly end.
type Drain struct {
	Timeout conf.Duration `yaml:"timeout" doc:"Time for calls under way to finish when the sidecar is stopped"`
}

// Telemetry is what a sidecar tells about itself.
type Telemetry struct {
	Traces Traces `yaml:"traces"`
	Log    Log    `yaml:"log"`
}

// Traces is the sampling of journeys that begin at this sidecar.
type Traces struct {
	Sample       float64 `yaml:"sample" doc:"Share of the traces that begin here which are kept, 0 to 1; a trace that the app began keeps its own decision"`
	MaxPerSecond int     `yaml:"maxPerSecond" doc:"Most traces that begin here which are kept each second; 0: no limit"`
}

// Log is the log on standard error.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// DefaultConfig is what holds where a file says nothing.
func DefaultConfig() Config {
	return Config{
		App:       App{ID: "app"},
		Upstream:  Upstream{URLs: []string{"nats://127.0.0.1:4222"}},
		Listeners: Listeners{API: "127.0.0.1:4280", Metrics: "127.0.0.1:9464"},
		Drain:     Drain{Timeout: conf.Duration(25 * time.Second)},
		Telemetry: Telemetry{Traces: Traces{Sample: 1, MaxPerSecond: 100}, Log: Log{Level: "info", Format: "text"}},
	}
}

// LoadConfig reads a YAML file over the defaults.
func LoadConfig(data []byte, lookup conf.Lookup) (Config, error) {
	cfg := DefaultConfig()
	if err := conf.Load(data, &cfg, lookup); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// Validate names every key that cannot work.
func (c Config) Validate() error {
	errs := []error{
		conf.Name("app.id", c.App.ID),
		conf.Between("app.port", c.App.Port, 0, 65535),
		checkPath("app.healthPath", c.App.HealthPath),
		conf.Under("upstream", c.Upstream.Validate()),
		conf.HostPort("listeners.api", c.Listeners.API),
		conf.HostPort("listeners.metrics", c.Listeners.Metrics),
		conf.Between("drain.timeout", c.Drain.Timeout, 0, conf.Duration(time.Hour)),
		conf.Between("telemetry.traces.sample", c.Telemetry.Traces.Sample, 0, 1),
		conf.AtLeast("telemetry.traces.maxPerSecond", c.Telemetry.Traces.MaxPerSecond, 0),
		conf.OneOf("telemetry.log.level", c.Telemetry.Log.Level, "debug", "info", "warn", "error"),
		conf.OneOf("telemetry.log.format", c.Telemetry.Log.Format, "text", "json"),
	}
	if c.App.HealthPath == "" {
		errs[2] = nil
	}
	if len(c.Subscriptions) > 0 && c.App.Port == 0 {
		errs = append(errs, conf.Field("app.port", "must be set: subscriptions post to it"))
	}
	for i, r := range c.Publish {
		errs = append(errs, conf.Under(conf.Item("publish", i), r.Validate()))
	}
	names := map[string]int{}
	for i, s := range c.Subscriptions {
		path := conf.Item("subscriptions", i)
		errs = append(errs, conf.Under(path, s.Validate()))
		if first, taken := names[s.Name]; taken {
			errs = append(errs, conf.Field(path+".name", fmt.Sprintf("is the name of subscriptions[%d], too", first)))
			continue
		}
		names[s.Name] = i
	}
	return errors.Join(errs...)
}

// Validate names every key that cannot work.
func (u Upstream) Validate() error {
	var errs []error
	if len(u.URLs) == 0 {
		errs = append(errs, conf.Field("urls", "want at least one URL"))
	}
	for i, v := range u.URLs {
		errs = append(errs, conf.URL(conf.Item("urls", i), v, "nats", "tls"))
	}
	ways := 0
	for _, set := range []bool{u.User != "", u.Token != "", u.Credentials != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		errs = append(errs, conf.Field("", "want one of user, token and credentials"))
	}
	if (u.User == "") != (u.Password == "") {
		errs = append(errs, conf.Field("user", "want user and password together"))
	}
	if (u.TLS.Cert == "") != (u.TLS.Key == "") {
		errs = append(errs, conf.Field("tls.cert", "want cert and key together"))
	}
	return errors.Join(errs...)
}

// Validate names every key that cannot work.
func (r Rule) Validate() error {
	l := r.RateLimit.withDefaults()
	errs := []error{
		checkPatterns(r.Subjects),
		conf.OneOf("rateLimit.onLimit", l.OnLimit, onLimitDelay, onLimitReject),
		conf.Between("rateLimit.maxDelay", l.MaxDelay, 0, conf.Duration(time.Minute)),
		conf.Between("rateLimit.burst", l.Burst, 1, 1_000_000),
	}
	if l.Rate.IsZero() {
		errs = append(errs, conf.Field("rateLimit.rate", "must be set, such as 500/s"))
	}
	return errors.Join(errs...)
}

func (l RateLimit) withDefaults() RateLimit {
	orDefault(&l.OnLimit, onLimitDelay)
	orDefault(&l.MaxDelay, conf.Duration(500*time.Millisecond))
	if !l.Rate.IsZero() {
		orDefault(&l.Burst, max(int(float64(l.Rate.Count)/l.Rate.Per.Seconds()), 1))
	}
	orDefault(&l.Burst, 1)
	return l
}

// Validate names every key that cannot work.
func (s Subscription) Validate() error {
	s = s.withDefaults()
	b := s.CircuitBreaker
	errs := []error{
		conf.Name("name", s.Name),
		conf.OneOf("from", s.From, "new", "all"),
		conf.OneOf("deliver.mode", s.Deliver.Mode, "push"),
		checkPath("deliver.path", s.Deliver.Path),
		conf.Between("deliver.concurrency", s.Deliver.Concurrency, 1, 1000),
		conf.Between("timeout", s.Timeout, conf.Duration(time.Millisecond), conf.Duration(time.Hour)),
		conf.Between("retry.maxAttempts", s.Retry.MaxAttempts, 1, 1_000_000),
		conf.Between("retry.initialInterval", s.Retry.InitialInterval, conf.Duration(time.Millisecond), s.Retry.MaxInterval),
		conf.Between("retry.maxInterval", s.Retry.MaxInterval, conf.Duration(time.Millisecond), conf.Duration(time.Hour)),
		conf.Between("retry.jitter", s.Retry.Jitter, 0, 1),
		conf.Between("circuitBreaker.failureRateThreshold", b.FailureRateThreshold, 1, 100),
		conf.Between("circuitBreaker.slowCallRateThreshold", b.SlowCallRateThreshold, 1, 100),
		conf.Between("circuitBreaker.minimumNumberOfCalls", b.MinimumNumberOfCalls, 1, 100_000),
		conf.Between("circuitBreaker.waitDurationInOpenState", b.WaitDurationInOpenState, conf.Duration(time.Millisecond), b.MaxWaitDurationInOpenState),
		conf.Between("circuitBreaker.maxWaitDurationInOpenState", b.MaxWaitDurationInOpenState, conf.Duration(time.Millisecond), conf.Duration(time.Hour)),
		conf.Between("circuitBreaker.permittedNumberOfCallsInHalfOpenState", b.PermittedNumberOfCallsInHalfOpenState, 1, 1000),
		conf.OneOf("deadLetter.action", s.DeadLetter.Action, deadLetterStore, deadLetterNever),
	}
	for i, err := range bus.CheckPatterns(s.Subjects) {
		if err != nil {
			errs = append(errs, conf.Field(conf.Item("subjects", i), err.Error()))
		}
	}
	if len(s.Subjects) == 0 {
		errs = append(errs, conf.Field("subjects", "want at least one pattern, such as orders.>"))
	}
	if err := conf.OneOf("circuitBreaker.slidingWindowType", b.SlidingWindowType, string(policy.CountBased), string(policy.TimeBased)); err != nil {
		errs = append(errs, err)
	} else if _, err := policy.ParseWindow(policy.WindowType(b.SlidingWindowType), b.SlidingWindowSize); err != nil {
		errs = append(errs, conf.Field("circuitBreaker.slidingWindowSize", err.Error()))
	}
	return errors.Join(errs...)
}

func (s Subscription) withDefaults() Subscription {
	retry, breaker := policy.DefaultRetry(), policy.DefaultBreaker()
	orDefault(&s.From, "new")
	orDefault(&s.Deliver.Mode, "push")
	orDefault(&s.Deliver.Path, "/")
	orDefault(&s.Deliver.Concurrency, 16)
	orDefault(&s.Timeout, conf.Duration(10*time.Second))
	orDefault(&s.Retry.MaxAttempts, retry.MaxAttempts)
	orDefault(&s.Retry.MaxInterval, conf.Duration(retry.MaxInterval))
	orDefault(&s.Retry.InitialInterval, min(conf.Duration(retry.InitialInterval), s.Retry.MaxInterval))
	orDefault(&s.Retry.Jitter, retry.Jitter)
	b := &s.CircuitBreaker
	orDefault(&b.FailureRateThreshold, breaker.FailureRateThreshold)
	orDefault(&b.SlowCallRateThreshold, breaker.SlowCallRateThreshold)
	orDefault(&b.SlowCallDurationThreshold, conf.Duration(breaker.SlowCallDurationThreshold))
	orDefault(&b.SlidingWindowType, string(breaker.Window.Type))
	if b.SlidingWindowType == string(policy.CountBased) {
		orDefault(&b.SlidingWindowSize, "100")
	}
	orDefault(&b.SlidingWindowSize, breaker.Window.Span.String())
	orDefault(&b.MinimumNumberOfCalls, breaker.MinimumNumberOfCalls)
	orDefault(&b.MaxWaitDurationInOpenState, conf.Duration(breaker.MaxWaitDurationInOpenState))
	orDefault(&b.WaitDurationInOpenState, min(conf.Duration(breaker.WaitDurationInOpenState), b.MaxWaitDurationInOpenState))
	orDefault(&b.PermittedNumberOfCallsInHalfOpenState, breaker.PermittedNumberOfCallsInHalfOpenState)
	orDefault(&s.DeadLetter.Action, deadLetterStore)
	return s
}

// policies turns a validated subscription into what decides for it.
func (s Subscription) policies() (policy.BreakerConfig, policy.Retry) {
	b := s.CircuitBreaker
	w, _ := policy.ParseWindow(policy.WindowType(b.SlidingWindowType), b.SlidingWindowSize) // Validate has checked it
	breaker := policy.BreakerConfig{
		FailureRateThreshold:                  b.FailureRateThreshold,
		SlowCallRateThreshold:                 b.SlowCallRateThreshold,
		SlowCallDurationThreshold:             b.SlowCallDurationThreshold.Std(),
		Window:                                w,
		MinimumNumberOfCalls:                  b.MinimumNumberOfCalls,
		WaitDurationInOpenState:               b.WaitDurationInOpenState.Std(),
		MaxWaitDurationInOpenState:            b.MaxWaitDurationInOpenState.Std(),
		PermittedNumberOfCallsInHalfOpenState: b.PermittedNumberOfCallsInHalfOpenState,
	}
	return breaker, policy.Retry{
		MaxAttempts:     s.Retry.MaxAttempts,
		InitialInterval: s.Retry.InitialInterval.Std(),
		MaxInterval:     s.Retry.MaxInterval.Std(),
		Jitter:          s.Retry.Jitter,
	}
}

func (a App) url(path string) string {
	return "http://127.0.0.1:" + strconv.Itoa(a.Port) + path
}

// orDefault sets what is zero: in a list, zero means the documented default.
func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func checkPatterns(patterns []string) error {
	if len(patterns) == 0 {
		return conf.Field("subjects", "want at least one pattern, such as orders.>")
	}
	var errs []error
	for i, p := range patterns {
		if err := event.CheckPattern(p); err != nil {
			errs = append(errs, conf.Field(conf.Item("subjects", i), err.Error()))
		}
	}
	return errors.Join(errs...)
}

func checkPath(path, v string) error {
	if _, err := url.ParseRequestURI(v); err != nil || !strings.HasPrefix(v, "/") || strings.ContainsAny(v, " #") {
		return conf.Field(path, fmt.Sprintf("want a path such as /events, have %q", v))
	}
	return nil
}
