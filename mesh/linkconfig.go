package mesh

import (
	"errors"

	"weft.dev/weft/internal/conf"
)

// Links joins this site to others.
type Links struct {
	Listen string `yaml:"listen" doc:"Address that other sites dial; empty: this site only dials"`
	Sites  []Link `yaml:"sites" doc:"The sites this one is linked to"`
}

// Link is the agreement with one other site. Both sites have one.
type Link struct {
	Name   string      `yaml:"name" doc:"Name of the other site"`
	URLs   []string    `yaml:"urls" doc:"Link addresses of the other site, such as nats://iad.example:7422; empty: the other site dials. If both could, the site whose name comes first does"`
	Secret conf.Secret `yaml:"secret" doc:"Shared secret of the two sites, at least 16 characters"`
	Export []string    `yaml:"export" doc:"Subjects of this site's events that the other site may have"`
	Import []string    `yaml:"import" doc:"Subjects wanted from the other site"`
}

// minSecret is the shortest link secret: shorter ones can be guessed.
const minSecret = 16

func (l Links) validate() error {
	var errs []error
	if l.Listen != "" {
		errs = append(errs, conf.HostPort("listen", l.Listen))
	}
	seen := map[string]bool{}
	for i, s := range l.Sites {
		path := conf.Item("sites", i)
		if seen[s.Name] {
			errs = append(errs, conf.Field(path+".name", "want each site once"))
		}
		seen[s.Name] = true
		errs = append(errs, conf.Under(path, s.validate(l.Listen != "")))
	}
	return errors.Join(errs...)
}

func (l Link) validate(listening bool) error {
	errs := []error{conf.Name("name", l.Name), patterns("export", l.Export), patterns("import", l.Import)}
	if len(l.Secret.Reveal()) < minSecret {
		errs = append(errs, conf.Field("secret", "want the secret shared with that site, at least 16 characters"))
	}
	for i, u := range l.URLs {
		errs = append(errs, conf.URL(conf.Item("urls", i), u, "nats", "nats-leaf"))
	}
	if len(l.URLs) == 0 && !listening {
		errs = append(errs, conf.Field("urls", "want an address to dial, or links.listen so that the other site can"))
	}
	return errors.Join(errs...)
}
