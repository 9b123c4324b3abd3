package backend

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Params are the query parameters of a URL, read strictly. An adapter asks for each one that it knows, by the method of
// its type, and then for Err: what was asked for by nobody is unknown, and everything that is wrong is reported together.
//
//	p := backend.ParamsOf(u)
//	if window, ok := p.Int("window", 1, 20_000); ok {
//		opts = append(opts, WithWindow(window))
//	}
//	if err := p.Err(); err != nil {
//		return nil, err
//	}
//
// The second result of a method is whether the parameter is given and right. Params is used by one goroutine.
type Params struct {
	values   url.Values
	known    []string
	problems []error
}

// ParamsOf returns the parameters of u.
func ParamsOf(u *url.URL) *Params {
	p := &Params{}
	var err error
	if p.values, err = url.ParseQuery(u.RawQuery); err != nil {
		p.Refuse("URL", "has parameters that cannot be parsed: separate them by &, and percent-encode their values")
	}
	return p
}

// Refuse adds a problem with a part of the URL: its host, its path, a parameter.
func (p *Params) Refuse(part, format string, args ...any) {
	p.problems = append(p.problems, reliable.Invalid(part, format, args...))
}

func (p *Params) refuse(name, format string, args ...any) {
	p.Refuse(fmt.Sprintf("parameter %q", name), format, args...)
}

// Text reads a text, which must not be empty.
func (p *Params) Text(name string) (string, bool) {
	p.known = append(p.known, name)
	given, ok := p.values[name]
	switch {
	case !ok:
		return "", false
	case len(given) > 1:
		p.refuse(name, "is given %d times, once is possible", len(given))
		return "", false
	case given[0] == "":
		p.refuse(name, "is empty; leave it out for its default")
		return "", false
	}
	return given[0], true
}

// List reads texts that are separated by commas.
func (p *Params) List(name string) ([]string, bool) {
	text, ok := p.Text(name)
	if !ok {
		return nil, false
	}
	list := strings.Split(text, ",")
	if slices.Contains(list, "") {
		p.refuse(name, "is %s, which has an empty element", quote(text))
		return nil, false
	}
	return list, true
}

// Int reads a whole number from least to most.
func (p *Params) Int(name string, least, most int) (int, bool) {
	text, ok := p.Text(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		p.refuse(name, "is %s, must be a number from %d to %d", quote(text), least, most)
		return 0, false
	}
	return n, true
}

// Duration reads a duration from least to most, as 1h30m or 500ms.
func (p *Params) Duration(name string, least, most time.Duration) (time.Duration, bool) {
	text, ok := p.Text(name)
	if !ok {
		return 0, false
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < least || d > most {
		p.refuse(name, "is %s, must be a duration from %v to %v, such as 1m30s or 500ms", quote(text), least, most)
		return 0, false
	}
	return d, true
}

// Bool reads true or false; fallback is what it is if it is not given.
func (p *Params) Bool(name string, fallback bool) bool {
	text, ok := p.Choice(name, "true", "false")
	if !ok {
		return fallback
	}
	return text == "true"
}

// Choice reads one of the choices.
func (p *Params) Choice(name string, choices ...string) (string, bool) {
	text, ok := p.Text(name)
	if ok && !slices.Contains(choices, text) {
		p.refuse(name, "is %s, must be one of %s", quote(text), strings.Join(choices, ", "))
		return "", false
	}
	return text, ok
}

// Err returns all that is wrong, joined; each is a [*reliable.InvalidError]. It comes after all other calls.
func (p *Params) Err() error {
	problems := slices.Clone(p.problems)
	possible := "it takes none"
	if len(p.known) > 0 {
		possible = "possible are " + strings.Join(p.known, ", ")
	}
	unknown := make([]string, 0, len(p.values))
	for name := range p.values {
		if !slices.Contains(p.known, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		problems = append(problems, reliable.Invalid("parameter "+quote(name), "is unknown; %s", possible))
	}
	return errors.Join(problems...)
}

// quote makes text fit for one line of a log.
func quote(text string) string {
	const enough = 64
	if len(text) > enough {
		text = text[:enough] + "..."
	}
	return strconv.Quote(text)
}
