package loadtest

import (
	"bytes"
	"strconv"
	"time"
)

// Every event's data is a JSON object that begins with a stamp of fixed width,
//
//	{"weftload":"RUN/KEY/SEQUENCE/SENT","pad":"xxx…"}
//
// RUN 8 hex digits, KEY 4 digits (the stream of events it belongs to), SEQUENCE
// 12 digits from 0 without holes per key, SENT 19 digits of Unix nanoseconds.
// A sender patches digits in place, a receiver finds the stamp in any envelope
// by a search for bytes, so neither spends time on JSON.
const (
	stampMark = `"weftload":"`
	runLen    = 8
	keyLen    = 4
	seqLen    = 12
	sentLen   = 19
	stampLen  = runLen + 1 + keyLen + 1 + seqLen + 1 + sentLen
	padMark   = `","pad":"`
	minSize   = 1 + len(stampMark) + stampLen + len(padMark) + 2
)

// stamp is what an event says of itself.
type stamp struct {
	key  int
	seq  uint64
	sent time.Time
}

// appendBody appends data of size bytes and returns where the sequence and the
// time stand in b.
func appendBody(b []byte, run string, key, size int) (out []byte, seqAt, sentAt int) {
	end := len(b) + max(size, minSize)
	b = append(b, '{')
	b = append(b, stampMark...)
	b = append(b, run...)
	b = append(b, '/')
	b = appendDigits(b, uint64(key), keyLen)
	b = append(b, '/')
	seqAt = len(b)
	b = appendDigits(b, 0, seqLen)
	b = append(b, '/')
	sentAt = len(b)
	b = appendDigits(b, 0, sentLen)
	b = append(b, padMark...)
	for len(b) < end-2 {
		b = append(b, 'x')
	}
	return append(b, '"', '}'), seqAt, sentAt
}

func appendDigits(b []byte, v uint64, width int) []byte {
	at := len(b)
	for range width {
		b = append(b, '0')
	}
	putDigits(b[at:], v)
	return b
}

// putDigits writes v right-aligned over all of b.
func putDigits(b []byte, v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
}

// scanner finds the stamps of one run.
type scanner struct{ mark []byte }

func newScanner(run string) scanner { return scanner{[]byte(stampMark + run + "/")} }

// next returns the first stamp of b and what follows it.
func (s scanner) next(b []byte) (st stamp, rest []byte, ok bool) {
	i := bytes.Index(b, s.mark)
	if i < 0 {
		return stamp{}, nil, false
	}
	b = b[i+len(s.mark):]
	const width = keyLen + 1 + seqLen + 1 + sentLen
	if len(b) < width {
		return stamp{}, nil, false
	}
	key, err1 := strconv.ParseUint(string(b[:keyLen]), 10, 64)
	seq, err2 := strconv.ParseUint(string(b[keyLen+1:keyLen+1+seqLen]), 10, 64)
	sent, err3 := strconv.ParseInt(string(b[width-sentLen:width]), 10, 64)
	if err1 != nil || err2 != nil || err3 != nil {
		return stamp{}, nil, false
	}
	return stamp{key: int(key), seq: seq, sent: time.Unix(0, sent)}, b[width:], true
}
