package mesh

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"weft.dev/weft/event"
	"weft.dev/weft/internal/conf"
)

const (
	// maxSites, maxGone, maxEntry, in bytes, and maxURLs bound the directory: all of
	// it fits into one message. What is over a limit is refused and counted.
	maxSites = 128
	maxGone  = 1024
	maxEntry = 2 << 10
	maxURLs  = 8
	// maxSkew is how far the clocks of two sites of a directory may be apart: an
	// entry is replaced by what is issued later.
	maxSkew = 5 * time.Minute
)

// entry is what a site says of itself.
type entry struct {
	Site      string   `json:"site"`
	Role      string   `json:"role"`
	URLs      []string `json:"urls,omitempty"`  // at which others dial it
	Homes     []string `json:"homes,omitempty"` // of an edge: the sites it joined by
	PublicKey string   `json:"publicKey"`
	Export    []string `json:"export,omitempty"`
	Issued    int64    `json:"issued"` // Unix ms; later than every earlier entry of the site
}

// record is an entry with the signature of its site, as it is kept and sent.
type record struct {
	Entry []byte `json:"entry"` // JSON, as it was signed
	Sig   []byte `json:"sig"`
}

// signedPrefix goes before what is signed. Its first byte is in no text: no
// server can have a site sign an entry in place of the nonce of a connection.
const signedPrefix = "\xffweft directory entry\n"

// sign makes an entry's record with the site's seed.
func (e entry) sign(seed conf.Secret) (record, error) {
	raw, err := json.Marshal(e)
	if err != nil {
		return record{}, fmt.Errorf("encode directory entry: %w", err)
	}
	pair, err := nkeys.FromSeed([]byte(seed.Reveal()))
	if err != nil {
		return record{}, fmt.Errorf("sign directory entry: %w", err)
	}
	defer pair.Wipe()
	sig, err := pair.Sign(append([]byte(signedPrefix), raw...))
	if err != nil {
		return record{}, fmt.Errorf("sign directory entry: %w", err)
	}
	return record{Entry: raw, Sig: sig}, nil
}

// open checks a record by itself and returns its entry.
func (r record) open() (entry, error) {
	var e entry
	if len(r.Entry)+len(r.Sig) > maxEntry {
		return e, reject("size", "an entry of the directory has %d bytes, at most %d: fewer or shorter advertise and export", len(r.Entry), maxEntry)
	}
	if err := json.Unmarshal(r.Entry, &e); err != nil {
		return e, reject("format", "an entry of the directory cannot be read: %v", err)
	}
	if !nkeys.IsValidPublicUserKey(e.PublicKey) {
		return e, reject("signature", "site %.63q: the entry has no public key", e.Site)
	}
	pair, err := nkeys.FromPublicKey(e.PublicKey)
	if err == nil {
		err = pair.Verify(append([]byte(signedPrefix), r.Entry...), r.Sig)
	}
	if err != nil {
		return e, reject("signature", "site %.63q: the entry is not signed with its key", e.Site)
	}
	if err := e.check(); err != nil {
		return e, reject("format", "site %.63q: %v", e.Site, err)
	}
	return e, nil
}

func (e entry) check() error {
	errs := []error{conf.Name("site", e.Site), conf.OneOf("mesh.links.directory.role", e.Role, roleCore, roleEdge)}
	if len(e.URLs) > maxURLs || e.Role == roleEdge && len(e.URLs) > 0 {
		errs = append(errs, conf.Field("mesh.links.directory.advertise", fmt.Sprintf("want at most %d addresses, of an edge none", maxURLs)))
	}
	errs = append(errs, dialable("mesh.links.directory.advertise", e.URLs, true), oneKind("mesh.links.directory.advertise", e.URLs))
	for _, p := range e.Export {
		if err := event.CheckPattern(p); err != nil {
			errs = append(errs, conf.Field("mesh.links.directory.export", err.Error()))
		}
	}
	return errors.Join(errs...)
}

// same tells whether two entries say the same.
func (e entry) same(f entry) bool {
	return e.Site == f.Site && e.Role == f.Role && e.PublicKey == f.PublicKey &&
		slices.Equal(e.URLs, f.URLs) && slices.Equal(e.Homes, f.Homes) && slices.Equal(e.Export, f.Export)
}

// tombstone says that a site was forgotten: its key is refused from then on, and
// its name is free.
type tombstone struct {
	Site      string `json:"site"`
	PublicKey string `json:"publicKey"`
	By        string `json:"by"` // the site where that was said
	At        int64  `json:"at"` // Unix ms
}

// rejection is why something is not taken into the directory. The reason is the
// label of a metric.
type rejection struct{ reason, text string }

func (r *rejection) Error() string { return r.text }

func reject(reason, format string, args ...any) error {
	return &rejection{reason, fmt.Sprintf(format, args...)}
}

// cell is an entry of the book, and the revision of the bucket that it has.
type cell struct {
	entry
	record
	revision uint64
}

// book is what a site knows of the sites of the mesh.
type book struct {
	sites map[string]cell      // by name
	gone  map[string]tombstone // by public key
}

func newBook() book { return book{sites: map[string]cell{}, gone: map[string]tombstone{}} }

// judge tells whether an entry is to be kept, in place of an older one if there
// is one, or why it must not be. A name belongs to the key that it was first seen
// with.
func (b book) judge(e entry, now time.Time) (keep bool, err error) {
	if t, ok := b.gone[e.PublicKey]; ok {
		return false, reject("forgotten", "site %q was forgotten at site %s (weft mesh forget): to let it in again, give it another NKey (mesh.links.nkey, or remove %s in its data directory)", e.Site, t.By, seedFile)
	}
	old, known := b.sites[e.Site]
	if known && old.PublicKey != e.PublicKey {
		return false, reject("name", "site: the name %q is taken by a site with another NKey: give each site its own name, or let go of the other with weft mesh forget %s", e.Site, e.Site)
	}
	if ahead := time.UnixMilli(e.Issued).Sub(now); ahead > maxSkew {
		return false, reject("clock", "site %q: its entry is issued %s in the future: set the clocks of both sites by NTP", e.Site, ahead.Round(time.Second))
	}
	if !known && len(b.sites) >= maxSites {
		return false, reject("limit", "site %q: the directory has %d sites, which is the limit: let go of those that are no more with weft mesh forget", e.Site, maxSites)
	}
	for name, c := range b.sites {
		if i := slices.IndexFunc(e.URLs, func(u string) bool { return slices.Contains(c.URLs, u) }); i >= 0 && name != e.Site {
			return false, reject("address", "mesh.links.directory.advertise: %s of site %q is an address of site %s already", e.URLs[i], e.Site, name)
		}
		if c.PublicKey == e.PublicKey && name != e.Site {
			return false, reject("key", "mesh.links.nkey: site %q has the NKey of site %s: each needs its own", e.Site, name)
		}
	}
	return !known || e.Issued > old.Issued, nil
}

// records are all entries as they are sent.
func (b book) records() []record {
	out := make([]record, 0, len(b.sites))
	for _, c := range b.cells() {
		out = append(out, c.record)
	}
	return out
}

// cells are all entries by name.
func (b book) cells() []cell {
	out := make([]cell, 0, len(b.sites))
	for _, c := range b.sites {
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y cell) int { return strings.Compare(x.Site, y.Site) })
	return out
}

// tombstones are those of all forgotten sites, the oldest first.
func (b book) tombstones() []tombstone {
	out := make([]tombstone, 0, len(b.gone))
	for _, t := range b.gone {
		out = append(out, t)
	}
	slices.SortFunc(out, func(x, y tombstone) int {
		return cmp.Or(cmp.Compare(x.At, y.At), cmp.Compare(x.PublicKey, y.PublicKey))
	})
	return out
}
