package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft.dev/weft/bridge/driver"
	"weft.dev/weft/bridge/kafka"
	"weft.dev/weft/bridge/sns"
	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/conf"
)

// Config is one bridge.
type Config struct {
	Name      string `yaml:"name" doc:"Name of the bridge, unique at the site; part of consumer, group and dead-letter names"`
	From      From   `yaml:"from" doc:"Where events come from; exactly one section"`
	To        To     `yaml:"to" doc:"Where events go; exactly one section"`
	Guarantee string `yaml:"guarantee" doc:"at-least-once; empty means that"`
	Batch     Batch  `yaml:"batch"`
}

// From is the source.
type From struct {
	Mesh  *MeshSource         `yaml:"mesh"`
	Kafka *kafka.SourceConfig `yaml:"kafka"`
	SQS   *sns.SourceConfig   `yaml:"sqs"`
}

// To is the sink.
type To struct {
	Kafka *kafka.SinkConfig `yaml:"kafka"`
	SNS   *sns.SinkConfig   `yaml:"sns"`
	Mesh  *MeshSink         `yaml:"mesh"`
}

// MeshSource reads the site's stream.
type MeshSource struct {
	Subjects []string `yaml:"subjects" doc:"Patterns of the subjects to carry, such as orders.>; they do not overlap"`
	Start    string   `yaml:"start" doc:"Where a new bridge begins: all (the oldest event kept) or new; empty: all"`
}

// MeshSink publishes at the site.
type MeshSink struct {
	Subject driver.Template `yaml:"subject" doc:"Subject, a template such as payments.{{key | token}}"`
}

// Batch bounds one write to the sink. A write begins as soon as one of the three
// is reached.
type Batch struct {
	Size   int           `yaml:"size" doc:"Events in a write; 0: 500"`
	Bytes  conf.Size     `yaml:"bytes" doc:"Bytes in a write; 0: 1MiB"`
	Linger conf.Duration `yaml:"linger" doc:"How long a write waits for more events; 0: 5ms"`
}

// AtLeastOnce is the guarantee of this release.
const AtLeastOnce = "at-least-once"

const (
	defaultSize   = 500
	defaultBytes  = 1 << 20
	defaultLinger = 5 * time.Millisecond
	maxSize       = 10_000
	maxLinger     = 10 * time.Second
	maxBridges    = 200 // every one has its own series
)

func (c Config) withDefaults() Config {
	if c.Guarantee == "" {
		c.Guarantee = AtLeastOnce
	}
	if c.Batch.Size == 0 {
		c.Batch.Size = defaultSize
	}
	if c.Batch.Bytes == 0 {
		c.Batch.Bytes = defaultBytes
	}
	if c.Batch.Linger == 0 {
		c.Batch.Linger = conf.Duration(defaultLinger)
	}
	return c
}

// ValidateAll checks the list of bridges that stands at path.
func ValidateAll(path string, cfgs []Config) error {
	var errs []error
	if len(cfgs) > maxBridges {
		errs = append(errs, conf.Field(path, fmt.Sprintf("want at most %d bridges", maxBridges)))
	}
	seen := map[string]bool{}
	for i, c := range cfgs {
		item := conf.Item(path, i)
		errs = append(errs, conf.Under(item, c.Validate()))
		if seen[c.Name] {
			errs = append(errs, conf.Field(item+".name", fmt.Sprintf("want a name of its own: %q stands twice", c.Name)))
		}
		seen[c.Name] = true
	}
	return errors.Join(errs...)
}

// Validate names every key that cannot work.
func (c Config) Validate() error {
	errs := []error{
		conf.Name("name", c.Name),
		conf.Under("from", c.From.validate()),
		conf.Under("to", c.To.validate()),
		conf.Under("batch", c.Batch.Validate()),
	}
	switch c.Guarantee {
	case "", AtLeastOnce:
	case "exactly-once":
		errs = append(errs, conf.Field("guarantee", "want at-least-once: this release has no other"))
	default:
		errs = append(errs, conf.OneOf("guarantee", c.Guarantee, AtLeastOnce))
	}
	if c.From.Mesh == nil {
		errs = append(errs, c.outside())
	}
	if c.From.Mesh != nil && c.To.Mesh != nil {
		errs = append(errs, conf.Field("to.mesh", "want another system: both ends are the mesh"))
	}
	if c.From.Mesh == nil && c.To.Mesh == nil && (c.From.Kafka != nil || c.From.SQS != nil) && (c.To.Kafka != nil || c.To.SNS != nil) {
		errs = append(errs, conf.Field("to", "want mesh: one end of a bridge is the mesh"))
	}
	return errors.Join(errs...)
}

// outside refuses templates that need what only an event from the mesh has.
func (c Config) outside() error {
	if c.To.Mesh == nil {
		return nil
	}
	var errs []error
	for _, f := range [...]string{"subject", "origin"} {
		if c.To.Mesh.Subject.Uses(f) {
			errs = append(errs, conf.Field("to.mesh.subject", f+" is known only of events from the mesh; use topic, key, type or header"))
		}
	}
	return errors.Join(errs...)
}

func (f From) validate() error {
	sections := map[string]bool{"mesh": f.Mesh != nil, "kafka": f.Kafka != nil, "sqs": f.SQS != nil}
	if err := exactlyOne(sections); err != nil {
		return err
	}
	switch {
	case f.Mesh != nil:
		return conf.Under("mesh", f.Mesh.Validate())
	case f.Kafka != nil:
		return conf.Under("kafka", f.Kafka.Validate())
	}
	return conf.Under("sqs", f.SQS.Validate())
}

func (t To) validate() error {
	sections := map[string]bool{"mesh": t.Mesh != nil, "kafka": t.Kafka != nil, "sns": t.SNS != nil}
	if err := exactlyOne(sections); err != nil {
		return err
	}
	switch {
	case t.Mesh != nil:
		return conf.Under("mesh", t.Mesh.Validate())
	case t.Kafka != nil:
		return conf.Under("kafka", t.Kafka.Validate())
	}
	return conf.Under("sns", t.SNS.Validate())
}

// exactlyOne is an error of the section itself, hence not a Field.
func exactlyOne(sections map[string]bool) error {
	var all, set []string
	for name, there := range sections {
		all = append(all, name)
		if there {
			set = append(set, name)
		}
	}
	slices.Sort(all)
	slices.Sort(set)
	switch len(set) {
	case 1:
		return nil
	case 0:
		return errors.New("want one of " + strings.Join(all, ", "))
	}
	return errors.New("want exactly one of " + strings.Join(all, ", ") + ", got " + strings.Join(set, " and "))
}

// Validate names every key that cannot work.
func (m MeshSource) Validate() error {
	var errs []error
	if len(m.Subjects) == 0 {
		errs = append(errs, conf.Field("subjects", "want at least one pattern, such as orders.>"))
	}
	for i, err := range bus.CheckPatterns(m.Subjects) {
		if err != nil {
			errs = append(errs, conf.Field(conf.Item("subjects", i), err.Error()))
		}
	}
	if m.Start != "" {
		errs = append(errs, conf.OneOf("start", m.Start, "all", "new"))
	}
	return errors.Join(errs...)
}

// Validate names every key that cannot work.
func (m MeshSink) Validate() error {
	if m.Subject.Empty() {
		return conf.Field("subject", "want a subject")
	}
	if s, ok := m.Subject.Fixed(); ok {
		if err := event.CheckSubject(s); err != nil {
			return conf.Field("subject", err.Error())
		}
	}
	return nil
}

// Validate names every key that cannot work.
func (b Batch) Validate() error {
	return errors.Join(
		conf.Between("size", b.Size, 0, maxSize),
		conf.Between("bytes", b.Bytes, 0, conf.Size(maxInFlight/4)),
		conf.Between("linger", b.Linger, 0, conf.Duration(maxLinger)),
	)
}
