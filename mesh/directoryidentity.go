package mesh

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nkeys"

	"weft.dev/weft/internal/conf"
)

// seedFile keeps the NKey of a site of one node that has none configured.
const seedFile = "weft-link.seed"

// identify gives a site of the directory its NKey: the one of the configuration,
// or else one that is made once and kept with the data.
func (n *Node) identify() error {
	if !n.cfg.Links.Directory.On() || n.cfg.Links.NKey != "" {
		return nil
	}
	path := filepath.Join(n.Dir, seedFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if raw, err = newSeed(); err == nil {
			err = writeWhole(path, append(raw, '\n'))
		}
	}
	if err != nil {
		return fmt.Errorf("keep the site's NKey: %w", conf.Field("data", fileError(err)))
	}
	seed := conf.Secret(strings.TrimSpace(string(raw)))
	if _, err := publicKey(seed); err != nil {
		return fmt.Errorf("read the site's NKey: %w", conf.Field("data", path+" is damaged: restore it, or set mesh.links.nkey"))
	}
	n.cfg.Links.NKey = seed
	return nil
}

func newSeed() ([]byte, error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, err
	}
	defer pair.Wipe() // the seed it gives out, too
	seed, err := pair.Seed()
	return slices.Clone(seed), err
}

// derive makes from the mesh's secret what is only good for one purpose.
func (d Directory) derive(purpose string) string {
	mac := hmac.New(sha256.New, []byte(d.Secret.Reveal()))
	mac.Write([]byte("weft directory " + purpose))
	return hex.EncodeToString(mac.Sum(nil))
}
