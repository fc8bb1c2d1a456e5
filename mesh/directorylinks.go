package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"weft.dev/weft/internal/conf"
)

// directoryQuestion compares the directories of two linked sites.
const directoryQuestion = "directory"

// keep does what is due: links that the server has not got, the site's own entry,
// the comparison with linked sites, and joining. All but the first is for one node
// of the site.
func (d *directory) keep(ctx context.Context) {
	if d.isDirty() {
		d.apply(ctx)
	}
	if !d.node.leads() || ctx.Err() != nil {
		return
	}
	if err := d.present(ctx); err != nil {
		d.node.Log.WarnContext(ctx, "own entry not in the directory yet", "err", err)
		return
	}
	d.compare(ctx)
	d.join(ctx)
}

func (d *directory) isDirty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dirty
}

// own is what this site says of itself; as an edge also of the homes, those it
// has joined by and the one it is about to.
func (d *directory) own(home string) (entry, error) {
	n := d.node
	e := entry{Site: n.Site, Role: d.cfg.Role, Export: d.cfg.Export, URLs: d.urls, Issued: n.Now().UnixMilli()}
	var err error
	if e.PublicKey, err = publicKey(n.cfg.Links.NKey); err != nil {
		return e, fmt.Errorf("read mesh.links.nkey: %w", err)
	}
	if d.cfg.Role == roleEdge {
		for _, j := range d.led() {
			e.Homes = append(e.Homes, j.Site)
		}
		if home != "" {
			e.Homes = append(e.Homes, home)
		}
		slices.Sort(e.Homes)
		e.Homes = slices.Compact(e.Homes)
	}
	b, _ := d.snapshot()
	e.Issued = max(e.Issued, b.sites[n.Site].Issued+1)
	return e, nil
}

// addresses are where other sites dial this one.
func (d *directory) addresses() []string {
	n := d.node
	if len(d.cfg.Advertise) > 0 || d.cfg.Role == roleEdge {
		return d.cfg.Advertise
	}
	if at := n.LinkURL(); at != "" && definite(n.cfg.Links.Listen) {
		return []string{at}
	}
	return nil
}

// led are the addresses that this site has joined by: those of the configuration,
// or all if it has none any more.
func (d *directory) led() []joined {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []joined
	for _, j := range d.joined {
		if len(d.cfg.Join) == 0 || slices.Contains(d.cfg.Join, j.URL) {
			out = append(out, j)
		}
	}
	slices.SortFunc(out, func(a, b joined) int { return strings.Compare(a.URL, b.URL) })
	return out
}

// present puts this site's entry into the directory if it is not there as it is now.
func (d *directory) present(ctx context.Context) error {
	e, err := d.own("")
	if err != nil {
		return err
	}
	d.mu.Lock()
	old, known := d.book.sites[e.Site]
	d.mu.Unlock()
	if known && e.same(old.entry) {
		return nil
	}
	r, err := e.sign(d.node.cfg.Links.NKey)
	if err != nil {
		return err
	}
	if _, err := r.open(); err != nil {
		return err // too large, or not what others would take
	}
	return d.put(ctx, siteKeys+e.Site, r)
}

// complete tells whether this site's entry is in the directory.
func (d *directory) complete() bool {
	b, _ := d.snapshot()
	_, ok := b.sites[d.node.Site]
	return ok
}

// outgoing is what this site knows, to be sent.
func (d *directory) outgoing() exchange {
	b, _ := d.snapshot()
	return exchange{
		Version: directoryVersion, From: d.node.Site, At: d.node.Now().UnixMilli(),
		Records: b.records(), Gone: b.tombstones(),
	}
}

// merge takes over what a linked site knows. An edge speaks for itself alone.
func (d *directory) merge(ctx context.Context, l *link, in exchange) error {
	b, _ := d.snapshot()
	switch {
	case in.Problem != "":
		return errors.New(in.Problem)
	case in.Version != directoryVersion:
		return reject("version", "site %s has version %d of the directory, site %s %d: bring both to one version of weft", l.Name, in.Version, d.node.Site, directoryVersion)
	case in.From != l.Name:
		return reject("format", "site %q speaks for site %.63q", l.Name, in.From)
	case b.sites[l.Name].Site == "":
		return reject("name", "mesh.links.sites: site %s is linked to site %s by hand and has not joined: give it mesh.links.directory.join", l.Name, d.node.Site)
	}
	d.learn(ctx, in, l.Edge)
	return nil
}

// learn takes over entries and tombstones, each that fits.
func (d *directory) learn(ctx context.Context, in exchange, ofEdge bool) {
	if len(in.Records) > maxSites || len(in.Gone) > maxGone {
		d.complain(ctx, in.From, in.From, reject("limit", "it has %d sites and %d forgotten ones, at most %d and %d are taken", len(in.Records), len(in.Gone), maxSites, maxGone))
	}
	for _, r := range in.Records[:min(len(in.Records), maxSites)] {
		e, err := r.open()
		if ofEdge && e.Site != in.From {
			continue
		}
		if err == nil {
			err = d.admit(ctx, r)
		}
		d.complain(ctx, e.Site, in.From, err)
	}
	if ofEdge {
		return
	}
	for _, t := range in.Gone[:min(len(in.Gone), maxGone)] {
		if conf.Name("site", t.Site) != nil || !nkeys.IsValidPublicUserKey(t.PublicKey) {
			d.refused.count("format")
			continue
		}
		d.complain(ctx, t.Site, in.From, d.bury(ctx, t))
	}
}

// complain says why something about a site was not taken over from another.
func (d *directory) complain(ctx context.Context, site, from string, err error) {
	var no *rejection
	switch {
	case err == nil:
	case errors.As(err, &no):
		d.refused.count(no.reason)
		if no.reason != "forgotten" || site == d.node.Site { // else both sites know it after this exchange
			d.node.refuse(site, fmt.Sprintf("directory of site %s: %s", from, no.text))
		}
	default:
		d.node.Log.DebugContext(ctx, "directory of a site not taken over", "site", from, "about", site, "err", err)
	}
}

// compare sends what this site knows to each linked site that may not know it,
// and takes over what it answers.
func (d *directory) compare(ctx context.Context) {
	b, version := d.snapshot()
	for _, l := range d.node.links.all() {
		if _, there := b.sites[l.Name]; !there {
			continue
		}
		l.mu.Lock()
		up, since := l.state.up, l.state.since
		l.mu.Unlock()
		if !up || !d.compared[l.Name].due(version, since) {
			continue
		}
		data, err := json.Marshal(d.outgoing())
		if err != nil {
			d.node.Log.ErrorContext(ctx, "directory not encoded", "err", err)
			return
		}
		d.compared[l.Name] = compare{busy: true}
		d.asking.Go(func() { d.compareWith(ctx, l, data, compare{version: version, link: since}) })
	}
}

// due tells whether it is time to compare with a site whose link is up since then.
func (c compare) due(version int, link time.Time) bool {
	switch ago := time.Since(c.at); {
	case c.busy:
		return false
	case c.failed:
		return ago > compareAgain
	default:
		return c.version != version || !c.link.Equal(link) || ago > compareEvery
	}
}

func (d *directory) compareWith(ctx context.Context, l *link, data []byte, done compare) {
	own, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	raw, err := d.node.Ask(own, l.Name, directoryQuestion, data)
	var in exchange
	if err == nil {
		err = json.Unmarshal(raw, &in)
	}
	done.at, done.failed = time.Now(), err != nil
	d.result(ctx, func(ctx context.Context) {
		if err == nil {
			err = d.merge(ctx, l, in)
			done.failed = err != nil
		}
		d.compared[l.Name] = done
		d.complain(ctx, l.Name, l.Name, err)
	})
}

// result hands on to Run what a goroutine has found out.
func (d *directory) result(ctx context.Context, do func(context.Context)) {
	select {
	case d.work <- do:
	case <-ctx.Done():
	}
}

// join joins by each address that has not led anywhere yet; a core site needs
// only one. An address whose site does not answer any more is tried again: it may
// have lost its directory.
func (d *directory) join(ctx context.Context) {
	if d.joining || time.Now().Before(d.next) {
		return
	}
	at, b := -1, map[string]joined{}
	for _, j := range d.led() {
		b[j.URL] = j
	}
	for i, u := range d.cfg.Join {
		j, there := b[u]
		if there && !d.lost(j.Site) || !there && d.cfg.Role == roleCore && len(b) > 0 && !d.alone(b) {
			continue
		}
		if at < 0 || d.last[u].Before(d.last[d.cfg.Join[at]]) {
			at = i
		}
	}
	if at < 0 {
		d.wait = joinEvery
		return
	}
	u, key := d.cfg.Join[at], conf.Item("mesh.links.directory.join", at)
	d.joining, d.last[u] = true, time.Now()
	d.asking.Go(func() {
		answer, err := d.ask(ctx, key, u)
		d.result(ctx, func(ctx context.Context) { d.arrive(ctx, u, answer, err) })
	})
}

// lost tells whether a site that was joined by is linked no more.
func (d *directory) lost(site string) bool {
	if site == d.node.Site {
		return false
	}
	l := d.node.links.by(site)
	if l == nil {
		return true
	}
	gone, _ := l.away()
	return gone > rejoinAfter
}

// alone tells whether all sites that were joined by are lost.
func (d *directory) alone(by map[string]joined) bool {
	for _, j := range by {
		if j.Site != d.node.Site && !d.lost(j.Site) {
			return false
		}
	}
	return true
}

// arrive takes in what a site answers that was joined by.
func (d *directory) arrive(ctx context.Context, u string, answer joinAnswer, err error) {
	d.joining = false
	if err == nil && !answer.Starting {
		err = d.settle(ctx, u, answer)
	}
	var away *unreachable
	problem, most := "", joinAtMost
	switch {
	case err != nil && !errors.As(err, &away):
		problem = err.Error()
		d.node.refuse("", problem)
	case err != nil:
		problem, most = err.Error(), dialAtMost
	case answer.Starting:
		problem, most = "the site there is starting", dialAtMost
	}
	d.mu.Lock()
	was := d.joins[u]
	d.joins[u] = problem
	d.mu.Unlock()
	if problem == "" {
		d.wait, d.next = joinEvery, time.Time{}
		return
	}
	if away != nil && was != problem {
		d.node.Log.WarnContext(ctx, "mesh not joined yet", "err", err)
	}
	if slices.ContainsFunc(d.cfg.Join, func(u string) bool { return d.last[u].IsZero() }) {
		return // another address at once
	}
	d.next, d.wait = time.Now().Add(d.wait), min(2*d.wait, most)
}

// settle takes over the directory of a site that took this one in.
func (d *directory) settle(ctx context.Context, u string, answer joinAnswer) error {
	n := d.node
	if apart := n.Now().Sub(time.UnixMilli(answer.At)).Abs(); apart > maxSkew {
		return conf.Field("mesh.links.directory", fmt.Sprintf("the clocks of site %s and this one are %s apart: set both by NTP", answer.From, apart.Round(time.Second)))
	}
	if err := d.put(ctx, joinedKey(u), joined{URL: u, Site: answer.From}); err != nil && !errors.Is(err, errChanged) {
		return err
	}
	if answer.From == n.Site {
		n.Log.InfoContext(ctx, "address leads to this site itself", "url", u)
		return nil
	}
	if err := d.present(ctx); err != nil { // an edge has one more home
		return err
	}
	d.learn(ctx, answer.exchange, false)
	b, _ := d.snapshot()
	if _, there := b.sites[answer.From]; !there {
		return conf.Field("mesh.links.directory", fmt.Sprintf("site %s cannot be taken into the directory of this site", answer.From))
	}
	n.Log.InfoContext(ctx, "mesh joined", "site", answer.From, "sites", len(b.sites))
	return nil
}

// apply makes links to the sites of the directory that are to be linked, and
// drops those to others.
func (d *directory) apply(ctx context.Context) {
	n := d.node
	d.mu.Lock()
	d.dirty = false
	d.mu.Unlock()
	had := n.links.all()
	var list []*link
	for _, l := range had {
		if l.listed() {
			list = append(list, l)
		}
	}
	b, _ := d.snapshot()
	for _, c := range b.cells() {
		want, ok := d.agreement(c.entry, list)
		if !ok {
			continue
		}
		l := n.links.by(c.Site)
		if l == nil || !reflect.DeepEqual(l.Link, want) {
			l = newLink(n, want)
			n.metrics.lost.WithLabelValues(want.Name)
			l.state.yields = l.mayYield() && len(d.urls) > 0 // the other will dial
		}
		list = append(list, l)
	}
	if slices.Equal(had, list) && !d.unsent {
		return
	}
	n.links.set(list)
	err := n.reload()
	if d.unsent = err != nil; d.unsent {
		n.Log.ErrorContext(ctx, "links of the directory not changed", "err", err)
		d.mu.Lock()
		d.dirty = true
		d.mu.Unlock()
	}
	n.links.changed()
	for _, l := range had {
		if n.links.by(l.Name) == nil {
			n.dropLeaf(l.Name) // a connection that stands outlives its user
		}
	}
}

// agreement is the link to a site of the directory; false: there is none.
func (d *directory) agreement(e entry, others []*link) (Link, bool) {
	n := d.node
	l := Link{Name: e.Site, PublicKey: e.PublicKey, Proxy: d.cfg.Proxy, Export: d.cfg.Export, Import: d.cfg.Import}
	switch {
	case e.Site == n.Site || slices.ContainsFunc(n.cfg.Links.Sites, func(s Link) bool { return s.Name == e.Site }):
		return l, false
	case d.cfg.Role == roleEdge:
		l.Home = true
		if !slices.ContainsFunc(d.led(), func(j joined) bool { return j.Site == e.Site }) {
			return l, false
		}
	case e.Role == roleEdge:
		l.Edge = true
		if !slices.Contains(e.Homes, n.Site) {
			return l, false
		}
	default:
		l.Relays = true
	}
	l.URLs = d.reachable(e, others)
	if len(l.URLs) == 0 && len(d.urls) == 0 && n.cfg.Links.Listen == "" && n.cfg.Links.WebSocket.Listen == "" {
		n.refuse(e.Site, fmt.Sprintf("mesh.links.directory.advertise: neither site %s nor this one can be dialled", e.Site))
		return l, false
	}
	return l, true
}

// reachable are the addresses of a site that this one may dial: those it joined
// by, and those that the site says, all of one kind and none of another site.
func (d *directory) reachable(e entry, others []*link) (out []string) {
	var all []string
	for _, j := range d.led() {
		if j.Site == e.Site {
			all = append(all, j.URL)
		}
	}
	all = append(all, e.URLs...)
	for _, raw := range all {
		u, err := url.Parse(raw)
		taken := slices.ContainsFunc(others, func(l *link) bool { return slices.Contains(l.URLs, raw) })
		if err != nil || taken || slices.Contains(out, raw) || dialable("", []string{raw}, d.node.cfg.Links.Plaintext) != nil {
			continue
		}
		if oneKind("", append(slices.Clone(out), u.String())) == nil {
			out = append(out, raw)
		}
	}
	return out
}
