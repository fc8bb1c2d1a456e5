package sidecar_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/sidecar"
	"weft.dev/weft/sidecar/policy"
)

func TestExampleConfig(t *testing.T) {
	data, err := os.ReadFile("testdata/sidecar.yaml")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := sidecar.LoadConfig(data, func(name string) (string, bool) { return "s3cret", name == "WEFT_PASSWORD" })
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Publish[0].RateLimit.Rate; got != (policy.Rate{Count: 500, Per: time.Second}) {
		t.Errorf("rate = %v", got)
	}
	if cfg.Upstream.Password.Reveal() != "s3cret" || cfg.Subscriptions[0].Deliver.Concurrency != 16 {
		t.Errorf("config = %+v", cfg)
	}
}

func TestConfigMistakes(t *testing.T) {
	const bad = `
app: {id: "no spaces", port: 99999, healthPath: health}
upstream:
  urls: [http://x]
  user: me
listeners: {api: nowhere}
publish:
  - subjects: ["a..b"]
  - subjects: [">"]
    rateLimit: {rate: 5/d, onLimit: drop}
subscriptions:
  - name: work
    deliver: {mode: pull, path: events, concurrency: 5000}
    retry: {jitter: 2, initialInterval: 5s, maxInterval: 1s}
    circuitBreaker: {failureRateThreshold: 150, slidingWindowType: COUNT_BASED, slidingWindowSize: 10s}
    deadLetter: {action: drop}
    ackWait: 5s
  - {name: work, subjects: ["x"]}
  - {name: twice, subjects: ["orders.>", "orders.created"], deliver: {path: "/%zz"}}
telemetry: {log: {level: loud}}
`
	_, err := sidecar.LoadConfig([]byte(bad), os.LookupEnv)
	all, ok := errors.AsType[*conf.Error](err)
	if !ok {
		t.Fatalf("err = %v", err)
	}
	var got []string
	for _, m := range all.Mistakes {
		if m.Line == 0 {
			t.Errorf("no line: %s", m)
		}
		got = append(got, m.Path)
	}
	want := []string{
		"app.healthPath", "app.id", "app.port", "upstream.user", "upstream.urls[0]", "listeners.api", "publish[0].rateLimit.rate",
		"publish[0].subjects[0]", "publish[1].rateLimit.onLimit", "publish[1].rateLimit.rate",
		"subscriptions[0].subjects", "subscriptions[0].deliver.concurrency", "subscriptions[0].deliver.mode",
		"subscriptions[0].deliver.path", "subscriptions[0].retry.initialInterval", "subscriptions[0].retry.jitter",
		"subscriptions[0].circuitBreaker.failureRateThreshold", "subscriptions[0].circuitBreaker.slidingWindowSize",
		"subscriptions[0].deadLetter.action", "subscriptions[0].ackWait", "subscriptions[1].name",
		"subscriptions[2].subjects[1]", "subscriptions[2].deliver.path", "telemetry.log.level",
	}
	sortStrings := cmp.Transformer("sorted", func(s []string) string { return strings.Join(slices.Sorted(slices.Values(s)), "\n") })
	if diff := cmp.Diff(want, got, sortStrings); diff != "" {
		t.Errorf("mistakes differ (-want +got):\n%s\n%v", diff, err)
	}
}

func TestConfigIsDescribed(t *testing.T) {
	if _, err := conf.Describe(sidecar.DefaultConfig()); err != nil {
		t.Error(err)
	}
}

func TestSubscriptionsNeedAPort(t *testing.T) {
	_, err := sidecar.LoadConfig([]byte("subscriptions: [{name: a, subjects: [x]}]"), os.LookupEnv)
	if err == nil || !strings.Contains(err.Error(), "app.port: must be set") {
		t.Errorf("err = %v", err)
	}
}
