package backend

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/waybillmq/waybill/reliable"
)

func open[T any](ctx context.Context, what string, kinds []Kind[T], rawURL string) (T, error) {
	var none T
	kind, u, err := find(what, kinds, rawURL)
	if err != nil {
		return none, fmt.Errorf("backend: open %s: %w", what, err)
	}
	opened, err := kind.Open(ctx, u)
	if err != nil {
		return none, fmt.Errorf("backend: open %s: %w", what, secretsOf(rawURL, u).redact(err))
	}
	return opened, nil
}

func schema[T any](what string, kinds []Kind[T], rawURL string) (string, error) {
	kind, u, err := find(what, kinds, rawURL)
	if err == nil && kind.Schema == nil {
		err = reliable.Invalid(what+" URL", "scheme %q has no tables to print", u.Scheme)
	}
	if err != nil {
		return "", fmt.Errorf("backend: schema: %w", err)
	}
	text, err := kind.Schema(u)
	if err != nil {
		return "", fmt.Errorf("backend: schema: %w", secretsOf(rawURL, u).redact(err))
	}
	return text, nil
}

// find returns the kind that rawURL means, and rawURL parsed.
func find[T any](what string, kinds []Kind[T], rawURL string) (*Kind[T], *url.URL, error) {
	byScheme, err := index(what, kinds)
	if err != nil {
		return nil, nil, err
	}
	u, problem := parse(rawURL)
	if problem != "" {
		return nil, nil, reliable.Invalid(what+" URL", "%s; expected is, for example, %s", problem, kinds[0].Example)
	}
	kind := byScheme[u.Scheme]
	if kind == nil {
		known := make([]string, 0, len(byScheme))
		for scheme := range byScheme {
			known = append(known, scheme)
		}
		slices.Sort(known)
		scheme := "its scheme"
		if u.Host != "" { // otherwise it may be anything that stands before a colon, such as a password
			scheme = fmt.Sprintf("scheme %q", u.Scheme)
		}
		return nil, nil, reliable.Invalid(what+" URL", "%s is not linked in; possible are %s", scheme, strings.Join(known, ", "))
	}
	return kind, u, nil
}

// index returns the kinds by their schemes.
func index[T any](what string, kinds []Kind[T]) (map[string]*Kind[T], error) {
	if len(kinds) == 0 {
		return nil, reliable.Invalid(what+"s", "is empty; list the adapters that the program links")
	}
	var problems []error
	byScheme := make(map[string]*Kind[T])
	for i := range kinds {
		kind := &kinds[i]
		if kind.Open == nil || len(kind.Schemes) == 0 {
			problems = append(problems, reliable.Invalid(what+"s", "kind %d has no Open or no Schemes", i))
		}
		for _, scheme := range kind.Schemes {
			if byScheme[scheme] != nil {
				problems = append(problems, reliable.Invalid(what+"s", "scheme %q is listed twice", scheme))
			}
			byScheme[scheme] = kind
		}
	}
	return byScheme, errors.Join(problems...)
}

// parse returns the URL, or says what is wrong with it without repeating any of it. A password with a reserved character
// in it would be taken for another part of the URL, and named as such: so what could be one is refused.
func parse(rawURL string) (*url.URL, string) {
	rawURL = strings.TrimSpace(rawURL)
	if rawURL == "" {
		return nil, "is empty"
	}
	if strings.Contains(rawURL, "#") {
		return nil, `holds a "#": percent-encode it as %23, in a password above all`
	}
	if _, after, ok := strings.Cut(rawURL, "://"); ok {
		if end := strings.IndexAny(after, "/?"); end >= 0 && strings.Contains(after[end:], "@") {
			return nil, `holds an "@" behind its host: percent-encode / as %2F, ? as %3F and # as %23 in user and password, ` +
				`and @ as %40 elsewhere`
		}
	}
	u, err := url.Parse(rawURL)
	switch {
	case err != nil:
		return nil, "cannot be parsed: is the port a number, and are the reserved characters of user and password percent-encoded?"
	case u.Scheme == "":
		return nil, "has no scheme"
	case u.Opaque != "" && strings.Contains(rawURL, "@"):
		return nil, "has no // behind its scheme"
	}
	return u, ""
}
