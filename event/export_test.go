package event

// For the external tests of this package.
var (
	PercentEncode = percentEncode
	PercentDecode = percentDecode
	AppendString  = appendString
)

// Members lists the members of a valid JSON object.
func Members(b []byte) map[string]string {
	out := map[string]string{}
	for rest := skipSpace(b)[1:]; ; {
		var key, raw []byte
		if key, raw, rest = nextMember(rest); key == nil {
			return out
		}
		out[memberName(key)] = string(raw)
	}
}
