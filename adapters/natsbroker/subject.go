package natsbroker

import (
	"strings"
	"unicode/utf8"

	"github.com/waybillmq/waybill/reliable"
)

// maxSubject keeps the protocol line of a publish, which also holds the reply subject, far below the 4096 bytes at
// which the server closes the connection.
const maxSubject = 1024

// subjectOf returns the subject that a topic is published to, or the *reliable.InvalidError that says why it has none.
func (s *settings) subjectOf(topic string) (string, error) {
	subject := s.subject(topic)
	if problem := badSubject(subject, false); problem != "" {
		return "", reliable.Invalid("Topic", "%q: its NATS subject %s; rename it or map it with WithSubject",
			printable(topic), problem)
	}
	return subject, nil
}

// badSubject says what keeps text from being a subject; with wildcards, from being one that a stream may listen to.
func badSubject(text string, wildcards bool) string {
	switch {
	case text == "":
		return "is empty"
	case len(text) > maxSubject:
		return "is longer than 1024 bytes"
	case !utf8.ValidString(text):
		return "is not valid UTF-8"
	case strings.HasPrefix(text, "$"):
		return "begins with $, which is the server's own"
	case strings.HasPrefix(text, "_INBOX."):
		return "begins with _INBOX., which is for replies"
	}
	for _, r := range text {
		if r <= ' ' || r == 0x7f {
			return "holds a space or a control character"
		}
	}
	tokens := strings.Split(text, ".")
	for i, token := range tokens {
		switch {
		case token == "":
			return "has an empty part between, before or after its dots"
		case wildcards && (token == "*" || token == ">" && i == len(tokens)-1):
		case strings.ContainsAny(token, "*>"):
			return "holds a wildcard, * or >, where none may stand"
		}
	}
	return ""
}

// subjectMatches reports whether a subject that a stream takes, which may hold wildcards, takes subject.
func subjectMatches(pattern, subject string) bool {
	tokens := strings.Split(subject, ".")
	for i, part := range strings.Split(pattern, ".") {
		switch {
		case i == len(tokens):
			return false
		case part == ">":
			return true
		case part != "*" && part != tokens[i]:
			return false
		}
	}
	return strings.Count(pattern, ".") == len(tokens)-1
}

func printable(text string) string {
	const enough = 80
	if len(text) > enough {
		text = text[:enough] + "..."
	}
	return strings.ToValidUTF8(text, "?")
}
