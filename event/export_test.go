package event

// For the external tests of this package.
var (
	PercentEncode = percentEncode
	PercentDecode = percentDecode
	AppendString  = appendString
)
