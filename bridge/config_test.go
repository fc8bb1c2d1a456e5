package bridge_test

import (
	"strings"
	"testing"

	"weft.dev/weft/bridge"
	"weft.dev/weft/internal/conf"
)

type file struct {
	Bridges []bridge.Config `yaml:"bridges" doc:"Bridges"`
}

func (f file) Validate() error { return bridge.ValidateAll("bridges", f.Bridges) }

const good = `
bridges:
  - name: orders-to-kafka
    from: {mesh: {subjects: ["orders.>", "payments.*"], start: new}}
    to:
      kafka:
        brokers: ["k1:9092", "k2:9092"]
        topic: "orders.{{subject 1}}"
        key: "{{header ` + "`ce-partitionkey`" + ` | default subject}}"
        createTopic: true
        partitions: 6
        sasl: {mechanism: SCRAM-SHA-256, user: weft, password: "${PASS}"}
        tls: {enabled: true}
    guarantee: at-least-once
    batch: {size: 1000, bytes: 4MiB, linger: 20ms}
  - name: payments-in
    from: {kafka: {brokers: ["k1:9092"], topics: [payments], group: weft-payments}}
    to: {mesh: {subject: "payments.{{key | token}}"}}
  - name: alerts-to-sns
    from: {mesh: {subjects: ["alerts.*"]}}
    to: {sns: {region: eu-west-1, topicArn: "arn:aws:sns:eu-west-1:1:alerts.fifo", group: "{{subject 1}}"}}
  - name: alerts-in
    from: {sqs: {region: eu-west-1, queueUrl: "https://sqs.eu-west-1.amazonaws.com/1/alerts", visibility: 1m, pollers: 4}}
    to: {mesh: {subject: alerts.in}}
`

func env(name string) (string, bool) { return "hidden", name == "PASS" }

func TestConfig(t *testing.T) {
	var f file
	if err := conf.Load([]byte(good), &f, env); err != nil {
		t.Fatal(err)
	}
	k := f.Bridges[0].To.Kafka
	if k.Topic.String() != "orders.{{subject 1}}" || k.SASL.Password.Reveal() != "hidden" || len(k.Brokers) != 2 || f.Bridges[3].From.SQS.Pollers != 4 {
		t.Errorf("loaded %+v", f.Bridges)
	}
	if _, err := conf.Describe(f); err != nil {
		t.Errorf("describe: %v", err)
	}
}

func TestConfigMistakes(t *testing.T) {
	const from, to = `from: {mesh: {subjects: ["a.>"]}}`, `to: {kafka: {brokers: ["k:1"], topic: t}}`
	tests := []struct{ name, give, want string }{
		{"no end", `[{name: a}]`, "bridges[0].from: want one of kafka, mesh, sqs"},
		{"two ends", `[{name: a, ` + from + `, to: {kafka: {brokers: ["k:1"], topic: t}, sns: {topicArn: x}}}]`, "bridges[0].to: want exactly one of kafka, mesh, sns, got kafka and sns"},
		{"unknown function", `[{name: a, ` + from + `, to: {kafka: {brokers: ["k:1"], topic: "o.{{subjct 1}}"}}}]`, `unknown function "subjct"; known: header`},
		{"same name", `[{name: a, ` + from + `, ` + to + `}, {name: a, ` + from + `, ` + to + `}]`, `bridges[1].name: want a name of its own: "a" stands twice`},
		{"bad name", `[{name: a.b, ` + from + `, ` + to + `}]`, "bridges[0].name"},
		{"both mesh", `[{name: a, ` + from + `, to: {mesh: {subject: b}}}]`, "bridges[0].to.mesh: want another system"},
		{"neither mesh", `[{name: a, from: {kafka: {brokers: ["k:1"], topics: [t]}}, ` + to + `}]`, "one end of a bridge is the mesh"},
		{"subject from outside", `[{name: a, from: {kafka: {brokers: ["k:1"], topics: [t]}}, to: {mesh: {subject: "x.{{subject 1}}"}}}]`, "subject is known only of events from the mesh"},
		{"fixed subject", `[{name: a, from: {kafka: {brokers: ["k:1"], topics: [t]}}, to: {mesh: {subject: "x..y"}}}]`, "bridges[0].to.mesh.subject"},
		{"bad topic", `[{name: a, ` + from + `, to: {kafka: {brokers: ["k:1"], topic: "a b"}}}]`, "bridges[0].to.kafka.topic: want a topic name of letters"},
		{"no brokers", `[{name: a, ` + from + `, to: {kafka: {topic: t}}}]`, "bridges[0].to.kafka.brokers: want at least one host:port"},
		{"bad broker", `[{name: a, ` + from + `, to: {kafka: {brokers: [k], topic: t}}}]`, "bridges[0].to.kafka.brokers[0]"},
		{"overlap", `[{name: a, from: {mesh: {subjects: ["a.>", "a.b"]}}, ` + to + `}]`, "bridges[0].from.mesh.subjects[1]: want patterns that do not overlap"},
		{"bad pattern", `[{name: a, from: {mesh: {subjects: ["a b"]}}, ` + to + `}]`, "bridges[0].from.mesh.subjects[0]"},
		{"arn", `[{name: a, ` + from + `, to: {sns: {topicArn: alerts}}}]`, "bridges[0].to.sns.topicArn: want arn:aws:sns:"},
		{"group without fifo", `[{name: a, ` + from + `, to: {sns: {topicArn: "arn:aws:sns:r:1:t", group: x}}}]`, "only a FIFO topic"},
		{"half a key", `[{name: a, ` + from + `, to: {sns: {topicArn: "arn:aws:sns:r:1:t", accessKey: x}}}]`, "bridges[0].to.sns.secretKey"},
		{"sasl", `[{name: a, ` + from + `, to: {kafka: {brokers: ["k:1"], topic: t, sasl: {mechanism: GSSAPI}}}}]`, "bridges[0].to.kafka.sasl.mechanism"},
		{"guarantee", `[{name: a, ` + from + `, ` + to + `, guarantee: exactly-once}]`, "bridges[0].guarantee: want at-least-once"},
		{"batch", `[{name: a, ` + from + `, ` + to + `, batch: {size: 1000000}}]`, "bridges[0].batch.size"},
		{"unknown key", `[{name: a, ` + from + `, ` + to + `, filter: x}]`, "filter"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var f file
			err := conf.Load([]byte("bridges: "+tt.give), &f, env)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v\nwant %s", err, tt.want)
			}
		})
	}
}
