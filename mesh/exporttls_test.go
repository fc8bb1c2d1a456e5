package mesh

import "context"

// Certificates returns what looks at a node's certificates now and then.
func (n *Node) Certificates() func(context.Context) { return newCertificates(n).look }
