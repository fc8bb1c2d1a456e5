package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/pki"
)

// Files of the authority in the directory.
const (
	caCert = "ca.pem"
	caKey  = "ca.key"
)

func (c *cli) pki() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Make certificates and keys for links between sites",
		Long: `Makes what sites and nodes prove themselves by, for operators without a certificate
authority of their own. docs/links.md tells what goes where.`,
		Example: "  weft pki ca\n  weft pki cert --site fra --host fra.example\n  weft pki nkey",
	}
	cmd.AddCommand(c.pkiCA(), c.pkiCert(), c.pkiNKey())
	return cmd
}

// written tells which files a command wrote.
type written struct {
	CA       string    `json:"ca"`
	Cert     string    `json:"cert,omitempty"`
	Key      string    `json:"key"`
	NotAfter time.Time `json:"notAfter"`
}

func (c *cli) pkiCA() *cobra.Command {
	var dir, name string
	var days int
	cmd := &cobra.Command{
		Use:     "ca",
		Short:   "Make a certificate authority: ca.pem for every node, ca.key for you alone",
		Example: "  weft pki ca --dir pki --name \"Weft of Example Ltd\"",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			until, err := lifetime(cmd, days)
			if err != nil {
				return err
			}
			ca, err := pki.NewAuthority(name, until)
			if err != nil {
				return err
			}
			out := written{CA: filepath.Join(dir, caCert), Key: filepath.Join(dir, caKey), NotAfter: ca.NotAfter}
			if err := errors.Join(os.MkdirAll(dir, 0o700), ca.Write(out.CA, out.Key)); err != nil {
				return err
			}
			return c.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "ca\t%s\tcopy it to every node\nkey\t%s\tkeep it here: whoever has it can pose as any site\nuntil\t%s\n",
					out.CA, out.Key, out.NotAfter.Format(time.DateOnly))
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory to write to")
	cmd.Flags().StringVar(&name, "name", "Weft", "name of the authority")
	cmd.Flags().IntVar(&days, "days", 3650, "days until it expires")
	return cmd
}

func (c *cli) pkiCert() *cobra.Command {
	var dir, site string
	var hosts []string
	var days int
	cmd := &cobra.Command{
		Use:   "cert --site NAME --host HOST",
		Short: "Make a certificate for the nodes of a site",
		Long: `Makes NAME.pem and NAME.key for the nodes of a site, signed by the authority in the
same directory. Name every host under which other sites and nodes dial them.`,
		Example: "  weft pki cert --site fra --host fra.example --host 10.0.0.7\n  weft pki cert --site iad --host iad.example --dir pki -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			until, err := lifetime(cmd, days)
			if err != nil {
				return err
			}
			if err := conf.Name("--site", site); err != nil {
				return usage(cmd, err)
			}
			out := written{CA: filepath.Join(dir, caCert), Cert: filepath.Join(dir, site+".pem"), Key: filepath.Join(dir, site+".key")}
			ca, err := pki.Read(out.CA, filepath.Join(dir, caKey))
			if err != nil {
				return fmt.Errorf("read the authority (made by weft pki ca): %w", err)
			}
			pair, err := ca.Issue(pki.Request{Site: site, Hosts: hosts, Until: until})
			if err != nil {
				return fmt.Errorf("make certificate: %w", err)
			}
			if err := pair.Write(out.Cert, out.Key); err != nil {
				return err
			}
			out.NotAfter = pair.NotAfter
			return c.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "cert\t%s\nkey\t%s\nuntil\t%s\n\nmesh:\n  tls: {ca: %s, cert: %s, key: %s}\n",
					out.Cert, out.Key, out.NotAfter.Format(time.DateOnly), out.CA, out.Cert, out.Key)
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "directory of the authority, to write to")
	cmd.Flags().StringVar(&site, "site", "", "name of the site")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "name or address under which the nodes are dialled (repeat)")
	cmd.Flags().IntVar(&days, "days", 365, "days until it expires")
	_ = cmd.MarkFlagRequired("site") // the flag is there
	_ = cmd.MarkFlagRequired("host")
	return cmd
}

func (c *cli) pkiNKey() *cobra.Command {
	return &cobra.Command{
		Use:     "nkey",
		Short:   "Make an NKey: the seed is this site's secret, the public key is for the others",
		Example: "  weft pki nkey\n  weft pki nkey -o json | jq -r .seed > link.seed",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			seed, public, err := pki.NKey()
			if err != nil {
				return err
			}
			return c.print(map[string]string{"seed": seed, "public": public}, func(w io.Writer) {
				fmt.Fprintf(w, "seed\t%s\tmesh.links.nkey of this site: keep it secret\npublic\t%s\tpublicKey of this site in mesh.links.sites of the others\n", seed, public)
			})
		},
	}
}

// lifetime is when a certificate that is valid for the given days expires.
func lifetime(cmd *cobra.Command, days int) (time.Time, error) {
	const most = 36500
	if days < 1 || days > most {
		return time.Time{}, usage(cmd, fmt.Errorf("--days %d: want 1 to %d", days, most))
	}
	return time.Now().AddDate(0, 0, days), nil
}
