package sqlstore

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Metadata is stored as a JSON object, so that people can read it and databases can search it; none is stored as
// nothing.

// encodeMetadata returns metadata as a JSON object whose keys are in order.
func encodeMetadata(metadata map[string]string) []byte {
	if len(metadata) == 0 {
		return []byte{}
	}
	size := 2
	keys := make([]string, 0, len(metadata))
	for key, value := range metadata {
		keys = append(keys, key)
		size += len(key) + len(value) + 6
	}
	slices.Sort(keys)
	text := make([]byte, 0, size)
	text = append(text, '{')
	for i, key := range keys {
		if i > 0 {
			text = append(text, ',')
		}
		text = appendString(text, key)
		text = append(text, ':')
		text = appendString(text, metadata[key])
	}
	return append(text, '}')
}

func appendString(text []byte, s string) []byte {
	if plain(s) {
		text = append(text, '"')
		text = append(text, s...)
		return append(text, '"')
	}
	quoted, err := json.Marshal(s)
	if err != nil {
		return append(text, `""`...) // a string is always encodable
	}
	return append(text, quoted...)
}

// plain reports whether s stands in JSON as it is.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// decodeMetadata is the inverse of encodeMetadata; it reads any JSON object of strings.
func decodeMetadata(text []byte) (map[string]string, error) {
	if len(text) == 0 {
		return nil, nil //nolint:nilnil // no metadata
	}
	if metadata, ok := decodePlain(text); ok {
		return metadata, nil
	}
	var metadata map[string]string
	if err := json.Unmarshal(text, &metadata); err != nil {
		return nil, fmt.Errorf("metadata is no JSON object of strings: %w", err)
	}
	return metadata, nil
}

// decodePlain reads what encodeMetadata wrote where nothing is escaped, several times faster than encoding/json.
func decodePlain(text []byte) (map[string]string, bool) {
	if len(text) < 2 || text[0] != '{' || text[len(text)-1] != '}' {
		return nil, false
	}
	metadata := make(map[string]string, 8)
	rest := text[1:]
	for {
		key, after, ok := cutPlain(rest)
		if !ok || len(after) == 0 || after[0] != ':' {
			return nil, false
		}
		value, after, ok := cutPlain(after[1:])
		if !ok || len(after) == 0 {
			return nil, false
		}
		metadata[key] = value
		switch {
		case after[0] == '}' && len(after) == 1:
			return metadata, true
		case after[0] == ',':
			rest = after[1:]
		default:
			return nil, false
		}
	}
}

// cutPlain takes a quoted string without escapes off the front of text.
func cutPlain(text []byte) (s string, rest []byte, ok bool) {
	if len(text) < 2 || text[0] != '"' {
		return "", nil, false
	}
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return string(text[1:i]), text[i+1:], true
		case c == '\\' || c < 0x20 || c >= utf8.RuneSelf:
			return "", nil, false
		}
	}
	return "", nil, false
}
