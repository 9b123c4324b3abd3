package sqlstore

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/waybillmq/waybill/reliable"
)

// cleanReason makes text fit for every table and log: valid UTF-8, no control characters, of bounded length. A NUL or a
// cut rune would fail the whole batch on PostgreSQL.
func cleanReason(text string) string {
	text = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "\uFFFD"))
	if len(text) <= reliable.MaxReasonBytes {
		return text
	}
	end := reliable.MaxReasonBytes
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}
