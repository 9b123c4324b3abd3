package sqlstore

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/waybillmq/waybill/reliable"
)

// DefaultPrefix begins the names of all tables unless configured otherwise.
const DefaultPrefix = "waybill_"

var prefixShape = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,39}$`)

// CheckPrefix says whether prefix is fit to begin table names in every database, without a need for quoting.
func CheckPrefix(option, prefix string) error {
	if !prefixShape.MatchString(prefix) {
		return reliable.Invalid(option, "is %q, must be 1 to 40 of a-z, 0-9 and _, not beginning with a digit", prefix)
	}
	return nil
}

// Statement is SQL text with a group, [[...]], wherever a list belongs. A group is repeated for each element of the
// list, separated by commas or by what follows ## in it. Where the database takes arrays there are no groups.
type Statement struct {
	text     string
	segments []segment
}

type segment struct{ literal, group, separator string }

// Text is the statement as it was written, for documentation and tests.
func (s Statement) Text() string { return s.text }

// Writer turns SQL templates into statements: it replaces {name}s.
type Writer struct{ replacer *strings.Replacer }

// NewWriter returns a Writer that knows the tables that begin with prefix, quoted with quote, and the expressions given
// as name, text pairs; {now} is the database's clock.
func NewWriter(prefix, quote string, expressions ...string) Writer {
	var pairs []string
	for _, table := range []string{
		"outbox", "lane", "head", "hold", "history", "decision", "chore", "inbox", "processed", "marker", "withheld", "schema",
	} {
		pairs = append(pairs, "{"+table+"}", quote+prefix+table+quote)
	}
	pairs = append(pairs,
		"{prefix}", prefix,
		"{parked}", fmt.Sprint(Parked),
		"{held}", fmt.Sprint(HeldBase),
		"{LEASED}", fmt.Sprint(flagLeased),
		"{MAYBE}", fmt.Sprint(flagMayHaveBeenSent),
		"{COMPENSATING}", fmt.Sprint(flagCompensating),
		"{columns}", columns,
	)
	for pair := range slices.Chunk(expressions, 2) {
		pairs = append(pairs, "{"+pair[0]+"}", pair[1])
	}
	return Writer{strings.NewReplacer(pairs...)}
}

// Text replaces the {name}s of a template.
func (w Writer) Text(template string) string { return w.replacer.Replace(template) }

// Statement makes a statement of a template.
func (w Writer) Statement(template string) Statement {
	text := w.replacer.Replace(w.replacer.Replace(template)) // twice: expressions may hold names
	text = strings.TrimSpace(text)
	s := Statement{text: text}
	rest := text
	for {
		before, after, found := strings.Cut(rest, "[[")
		if !found {
			s.segments = append(s.segments, segment{literal: rest})
			return s
		}
		group, tail, _ := strings.Cut(after, "]]")
		group, separator, custom := strings.Cut(group, "##")
		if !custom {
			separator = ", "
		}
		s.segments = append(s.segments, segment{literal: before, group: group, separator: separator})
		rest = tail
	}
}

// expand repeats the groups for the lists among args and lays their elements out in the order of the placeholders.
// Neighbouring lists belong to one group, a column each.
func (s Statement) expand(args []any) (string, []any) {
	if len(s.segments) == 1 {
		return s.text, args
	}
	flat, rows := s.flatten(args)
	return s.repeated(rows...), flat
}

// flatten lays the elements of the lists out in the order of the placeholders, and returns how many rows each group has.
func (s Statement) flatten(args []any) (flat []any, rows []int) {
	size := 0
	for _, arg := range args {
		size += max(1, listLen(arg))
	}
	flat = make([]any, 0, size)
	next := 0
	for _, seg := range s.segments {
		if seg.group == "" {
			continue
		}
		for listLen(args[next]) < 0 {
			flat = append(flat, args[next])
			next++
		}
		first := next
		for next < len(args) && listLen(args[next]) >= 0 {
			next++
		}
		n, columns := listLen(args[first]), next-first
		for row := range n {
			for _, column := range args[first:next] {
				if row > 0 && repeats(column, row) {
					flat = append(flat, flat[len(flat)-columns]) // an interface value costs an allocation each
				} else {
					flat = append(flat, element(column, row))
				}
			}
		}
		rows = append(rows, n)
	}
	return append(flat, args[next:]...), rows
}

// repeated is the text with each group repeated for so many rows.
func (s Statement) repeated(rows ...int) string {
	var text strings.Builder
	text.Grow(len(s.text) * (1 + slices.Max(rows)))
	for _, seg := range s.segments {
		text.WriteString(seg.literal)
		if seg.group == "" {
			continue
		}
		for row := range rows[0] {
			if row > 0 {
				text.WriteString(seg.separator)
			}
			text.WriteString(seg.group)
		}
		rows = rows[1:]
	}
	return text.String()
}

// listLen is the length of an argument that is a list, -1 for others.
func listLen(arg any) int {
	switch list := arg.(type) {
	case []string:
		return len(list)
	case []int64:
		return len(list)
	case [][]byte:
		return len(list)
	}
	return -1
}

// repeats reports whether an element is the same as the one before.
func repeats(list any, i int) bool {
	switch list := list.(type) {
	case []string:
		return list[i] == list[i-1]
	case []int64:
		return list[i] == list[i-1]
	case [][]byte:
		return len(list[i]) == 0 && len(list[i-1]) == 0 && (list[i] == nil) == (list[i-1] == nil)
	}
	return false
}

func element(list any, i int) any {
	switch list := list.(type) {
	case []string:
		return list[i]
	case []int64:
		return list[i]
	case [][]byte:
		return list[i]
	}
	return nil
}
