package backend

import (
	"errors"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// mask stands where a secret stood.
const mask = "xxxxx"

// Redact returns rawURL as it may be logged: without password, without a user that has none (which is a token), and
// without the values of parameters that sound like secrets. Of a URL that cannot be parsed nothing is left.
func Redact(rawURL string) string {
	u, problem := parse(rawURL)
	if problem != "" {
		return "(malformed URL)"
	}
	if u.User != nil {
		if _, has := u.User.Password(); has {
			u.User = url.UserPassword(u.User.Username(), mask)
		} else {
			u.User = url.User(mask)
		}
	}
	pairs := strings.Split(u.RawQuery, "&")
	for i, pair := range pairs {
		if name, _, ok := strings.Cut(pair, "="); ok && soundsSecret(name) {
			pairs[i] = name + "=" + mask
		}
	}
	u.RawQuery = strings.Join(pairs, "&")
	return u.String()
}

func soundsSecret(parameter string) bool {
	parameter = strings.ToLower(parameter)
	return slices.ContainsFunc([]string{"pass", "pwd", "secret", "token", "seed"}, func(word string) bool {
		return strings.Contains(parameter, word)
	})
}

// secrets are what must not be in any text, in every form in which it could be, longest first.
type secrets []string

// secretsOf returns the secrets of a URL that could be parsed.
func secretsOf(rawURL string, u *url.URL) secrets {
	var found secrets
	add := func(raw, decoded string) {
		quoted := strings.Trim(strconv.Quote(decoded), `"`)
		for _, form := range []string{raw, decoded, url.QueryEscape(decoded), url.PathEscape(decoded), quoted} {
			if form != "" && !slices.Contains(found, form) {
				found = append(found, form)
			}
		}
	}
	if u.User != nil {
		_, raw, _ := strings.Cut(rawURL, "://")
		if end := strings.IndexAny(raw, "/?"); end >= 0 {
			raw = raw[:end]
		}
		raw = raw[:max(strings.LastIndex(raw, "@"), 0)]
		add(u.User.String(), u.User.String())
		if password, has := u.User.Password(); has {
			_, raw, _ = strings.Cut(raw, ":")
			add(raw, password)
		} else {
			add(raw, u.User.Username())
		}
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, raw, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(raw); soundsSecret(name) {
			if err != nil {
				decoded = raw
			}
			add(raw, decoded)
		}
	}
	slices.SortStableFunc(found, func(a, b string) int { return len(b) - len(a) })
	return found
}

// redact returns err if its text holds no secret, and else an error whose text does not. What is found in it by
// errors.Is and errors.As is the same, but for errors that would tell.
func (s secrets) redact(err error) error {
	text := err.Error()
	clean := s.clean(text)
	if clean == text {
		return err
	}
	return &redactedError{text: clean, cause: err, secrets: s}
}

func (s secrets) clean(text string) string {
	for _, secret := range s {
		text = replaceSecret(text, secret)
	}
	return text
}

// replaceSecret replaces secret wherever it stands; one of a few letters only where it stands by itself, since it is in
// every other word.
func replaceSecret(text, secret string) string {
	const short = 4
	if len(secret) >= short {
		return strings.ReplaceAll(text, secret, mask)
	}
	var out strings.Builder
	for {
		at := strings.Index(text, secret)
		if at < 0 {
			out.WriteString(text)
			return out.String()
		}
		end := at + len(secret)
		before, _ := utf8.DecodeLastRuneInString(text[:at])
		after, _ := utf8.DecodeRuneInString(text[end:])
		out.WriteString(text[:at])
		if inWord(before) || inWord(after) {
			out.WriteString(secret)
		} else {
			out.WriteString(mask)
		}
		text = text[end:]
	}
}

func inWord(r rune) bool { return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r)) }

// redactedError is an error without its secrets. It has no Unwrap, which would lead around the redaction.
type redactedError struct {
	text    string
	cause   error
	secrets secrets
}

func (e *redactedError) Error() string { return e.text }

// Is makes errors.Is find what it finds in the cause.
func (e *redactedError) Is(target error) bool { return errors.Is(e.cause, target) }

// As makes errors.As find what it finds in the cause, unless that would tell a secret.
func (e *redactedError) As(target any) bool {
	if !errors.As(e.cause, target) {
		return false
	}
	found := reflect.ValueOf(target).Elem()
	if err, ok := reflect.TypeAssert[error](found); ok && e.secrets.clean(err.Error()) != err.Error() {
		found.SetZero()
		return false
	}
	return true
}
