// Package gossip finds the nodes of a site: a memberlist pool, one per site,
// encrypted, joined by any address of it. It says who is there and decides
// nothing: who may connect, and what the cluster consists of, is not its
// business. It makes no compatibility promise.
package gossip

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"weft.dev/weft/internal/obs"
)

const (
	// rejoin is how often seeds are tried while nodes are missing.
	rejoin = 250 * time.Millisecond
	// reclaim is how long after a node's death another address may take its name,
	// as a pod does that is started anew elsewhere.
	reclaim = 5 * time.Second
	// leaveTimeout is how long the farewell to the others may take.
	leaveTimeout = time.Second
	// maxMeta is memberlist's limit of what a node says of itself, in bytes.
	maxMeta = memberlist.MetaMaxSize
)

// Config is how a node takes part in its site's pool.
type Config struct {
	Site, Node string
	Listen     string   // host:port, UDP and TCP
	Advertise  string   // host:port others reach it at; empty: the listener's
	Join       []string // addresses of other nodes
	Keys       []string // any text; the first encrypts, all decrypt; none: not encrypted
	Self       Meta
}

// Meta is what a node says of itself.
type Meta struct {
	Site    string `json:"s"`
	Size    int    `json:"n"` // nodes its site starts with
	Route   string `json:"r"` // address for cluster routes; without host: the node's
	Version string `json:"v"`
	// Growing: the node has the history of its site, and is to bring it into the cluster.
	Growing bool `json:"g,omitempty"`
}

// Member is a node that is there.
type Member struct {
	Node string
	Meta
}

// Pool is a node's part in the pool. It is safe for concurrent use.
type Pool struct {
	obs.Scope
	cfg     Config
	list    *memberlist.Memberlist // for others than Open and its caller once made is closed
	made    chan struct{}
	changed chan struct{}
	called  chan struct{}

	mu      sync.Mutex
	growing []string // nodes that the last call named; guarded by mu
}

// Open begins to listen and to answer others; Run joins them.
func Open(cfg Config, s obs.Scope) (*Pool, error) {
	p := &Pool{Scope: s, cfg: cfg, changed: make(chan struct{}, 1), called: make(chan struct{}, 1), made: make(chan struct{})}
	meta, err := json.Marshal(cfg.Self)
	if err != nil || len(meta) > maxMeta {
		return nil, fmt.Errorf("encode gossip of node %s: %d bytes, at most %d: %w", cfg.Node, len(meta), maxMeta, err)
	}
	mc := memberlist.DefaultLANConfig()
	mc.Name, mc.Label = cfg.Node, "weft/"+cfg.Site
	mc.DeadNodeReclaimTime = reclaim
	mc.EnableCompression = false // messages are small, and a compressor for each is most of what an idle node allocates
	mc.Logger = log.New(&logWriter{pool: p}, "", 0)
	d := &delegate{pool: p, meta: meta}
	mc.Delegate, mc.Events, mc.Merge, mc.Alive, mc.Conflict = d, d, d, d, d
	if mc.BindAddr, mc.BindPort, err = split(cfg.Listen); err != nil {
		return nil, err
	}
	if cfg.Advertise != "" {
		if mc.AdvertiseAddr, mc.AdvertisePort, err = split(cfg.Advertise); err != nil {
			return nil, err
		}
	}
	if len(cfg.Keys) > 0 {
		keys := make([][]byte, len(cfg.Keys))
		for i, k := range cfg.Keys {
			sum := sha256.Sum256([]byte(k))
			keys[i] = sum[:]
		}
		if mc.Keyring, err = memberlist.NewKeyring(keys, keys[0]); err != nil {
			return nil, fmt.Errorf("make gossip keys: %w", err)
		}
	}
	if p.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("listen for gossip: %w", err)
	}
	close(p.made)
	return p, nil
}

func split(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil {
		return "", 0, fmt.Errorf("read gossip address %q: %w", addr, err)
	}
	return host, port, nil
}

// Addr is where others join this node.
func (p *Pool) Addr() string { return p.list.LocalNode().Address() }

// Changed gets a value after members came or went.
func (p *Pool) Changed() <-chan struct{} { return p.changed }

// Call reaches every node that is there, this one among them, at once. It tells
// them which nodes are growing: they may not have heard of all of them yet.
func (p *Pool) Call(ctx context.Context) {
	message := callMessage
	for _, m := range p.Members() {
		if m.Growing {
			message += " " + m.Node
		}
	}
	for _, n := range p.list.Members() {
		if n.Name == p.cfg.Node {
			continue
		}
		if err := p.list.SendReliable(n, []byte(message)); err != nil {
			p.Log.DebugContext(ctx, "node not called", "node", n.Name, "err", err)
		}
	}
	p.call(message) // last: who begins before the others are up costs the site an election
}

// callMessage begins a call; names of growing nodes follow.
const callMessage = "call"

// call takes a call, this node's own or another's.
func (p *Pool) call(message string) {
	words := strings.Fields(message)
	if len(words) == 0 || words[0] != callMessage {
		return
	}
	p.mu.Lock()
	p.growing = words[1:]
	p.mu.Unlock()
	signal(p.called)
}

// Called gets a value after some node's Call.
func (p *Pool) Called() <-chan struct{} { return p.called }

// Growing are the nodes of which a call or their own word says that they bring
// the history of the site.
func (p *Pool) Growing() []string {
	p.mu.Lock()
	out := slices.Clone(p.growing)
	p.mu.Unlock()
	for _, m := range p.Members() {
		if m.Growing && !slices.Contains(out, m.Node) {
			out = append(out, m.Node)
		}
	}
	return out
}

// signal sets a channel of one place.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting
	}
}

// Members are the nodes that are there, this one among them, by name.
func (p *Pool) Members() []Member {
	var out []Member
	for _, n := range p.list.Members() {
		if m, err := decode(n); err == nil {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// decode reads what a node says of itself and completes its address.
func decode(n *memberlist.Node) (Member, error) {
	m := Member{Node: n.Name}
	if err := json.Unmarshal(n.Meta, &m.Meta); err != nil {
		return m, fmt.Errorf("read gossip of node %s: %w", n.Name, err)
	}
	if host, port, err := net.SplitHostPort(m.Route); err == nil && unspecified(host) {
		m.Route = net.JoinHostPort(n.Addr.String(), port)
	}
	return m, nil
}

func unspecified(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// Run joins the others, again whenever nodes are missing, until ctx ends. Then
// it says farewell.
func (p *Pool) Run(ctx context.Context) error {
	t := time.NewTicker(rejoin)
	defer t.Stop()
	var last string
	for {
		if p.list.NumMembers() < max(p.cfg.Self.Size, 2) && len(p.cfg.Join) > 0 {
			last = p.join(ctx, last)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			if err := p.list.Leave(leaveTimeout); err != nil {
				p.Log.DebugContext(ctx, "farewell not heard", "err", err) // as when all go at once
			}
			return p.list.Shutdown()
		}
	}
}

// join tries every seed; each new problem is told once.
func (p *Pool) join(ctx context.Context, last string) string {
	n, err := p.list.Join(p.cfg.Join)
	if err == nil || n > 0 && refusal(err) == nil {
		return ""
	}
	text := err.Error()
	if told := refusal(err); told != nil {
		text = told.Error()
	}
	if text != last {
		p.Log.WarnContext(ctx, "gossip not joined", "seeds", p.cfg.Join, "err", text)
	}
	return text
}
