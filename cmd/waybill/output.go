package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

const (
	formatTable = "table"
	formatJSON  = "json"
)

// json writes v as one JSON document.
func (a *app) json(v any) error {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	err := encoder.Encode(v)
	a.say("%s", text.String())
	return err
}

// table writes rows below a header. Cells are made fit for one line.
func (a *app) table(header []string, rows [][]string) {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = line(cell)
		}
		_, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") // a Builder takes everything
	}
	_ = w.Flush()
	a.say("%s", text.String())
}

// line makes text that came from elsewhere fit for one line of a terminal: what would move its cursor or change its colours
// is shown, not done.
func line(text string) string {
	if text == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// span is a duration for people: two units, the larger ones first.
func span(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return fmt.Sprintf("%s%dms", sign, d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%s%ds", sign, d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%s%dm%02ds", sign, d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%s%dh%02dm", sign, d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%s%dd%02dh", sign, d/day, d%day/time.Hour)
}

// age is a span, or a dash where there is nothing to be old.
func age(d time.Duration, count int) string {
	if count == 0 {
		return "-"
	}
	return span(d)
}

// seconds is a duration in JSON.
func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

// size is a number of bytes for people.
func size(bytes int) string {
	const kilo, mega = 1 << 10, 1 << 20
	switch {
	case bytes < kilo:
		return fmt.Sprintf("%d B", bytes)
	case bytes < mega:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/kilo)
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/mega)
}

// plural is "1 message", "2 messages".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
