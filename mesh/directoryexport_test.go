package mesh

// JoinPassword is that of sites that join.
func JoinPassword(d Directory) string { return d.derive("join") }
