package transfer

// Trust switches off the check that the exporter's stream still holds what the
// peer took, to show what it is for.
func (x *Exporter) Trust() { x.trusting = true }
