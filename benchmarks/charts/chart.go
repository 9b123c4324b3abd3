package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// chart is one picture: lines over the values of one part of the benchmarks' names.
type chart struct {
	file, title, x, y string
	// pattern is the benchmarks' path: "*" is a part of a line's name, "x" the place along the axis, all else is itself.
	pattern string
	// metrics are what is drawn; with more than one, each names its lines too.
	metrics []string
	// label writes a place along the axis.
	label func(int64) string
	// logarithmic says that the values differ by so much that only their order of magnitude can be seen.
	logarithmic bool
}

// line is what a chart connects.
type line struct {
	name   string
	places []string // along the axis, as in the benchmarks' names
	values []float64
}

var charts = []chart{
	sideBySide("mariadb", "MariaDB"), sideBySide("postgres", "PostgreSQL"),
	latency("mariadb", "MariaDB"), latency("postgres", "PostgreSQL"),
	rates("scale-backlog", "Draining a backlog", "messages in the backlog", "ScaleBacklog/*/x", count),
	rates("scale-settled", "Draining beside settled rows", "settled rows in the table", "ScaleSettled/*/x", count),
	rates("scale-relays", "Draining by several processes", "relay processes", "ScaleRelays/*/x", count),
	rates("scale-order", "Order by key", "number of keys", "ScaleOrder/*/x", count),
	rates("scale-old-transaction", "Beside an old transaction", "messages sent since it was opened", "ScaleOldTransaction/*/*/x", count),
	{
		file: "scale-payload", title: "Sending payloads of different sizes", x: "payload", y: "messages a second",
		pattern: "ScalePayload/*/x", metrics: []string{"msg/s"}, label: size, logarithmic: true,
	},
	{
		file: "callers", title: "Sending from PostgreSQL to RabbitMQ", x: "callers", y: "messages a second",
		pattern: "Callers/rabbitmq-postgres/*/x", metrics: []string{"msg/s"}, label: count, logarithmic: true,
	},
}

func rates(file, title, x, pattern string, label func(int64) string) chart {
	return chart{file: file, title: title, x: x, y: "messages a second", pattern: pattern, metrics: []string{"msg/s"}, label: label}
}

func sideBySide(database, name string) chart {
	return rates("side-by-side-"+database, "Business transactions a second, "+name, "transactions at a time",
		"SideBySide/"+database+"/x/*", count)
}

func latency(database, name string) chart {
	return chart{
		file: "latency-" + database, title: "Time of a business transaction, " + name, x: "transactions at a time", y: "milliseconds",
		pattern: "SideBySide/" + database + "/x/*", metrics: []string{"p50-ms", "p99-ms"}, label: count, logarithmic: true,
	}
}

// lines picks the chart's lines out of all points, in the order in which they are first met.
func (c chart) lines(points []point) (lines []line) {
	for _, metric := range c.metrics {
		for _, p := range points {
			name, place, is := c.match(p.path)
			value, has := p.metrics[metric]
			if !is || !has {
				continue
			}
			if len(c.metrics) > 1 {
				name += " " + strings.TrimSuffix(metric, "-ms")
			}
			i := slices.IndexFunc(lines, func(l line) bool { return l.name == name })
			if i < 0 {
				i = len(lines)
				lines = append(lines, line{name: name})
			}
			lines[i].places, lines[i].values = append(lines[i].places, place), append(lines[i].values, value)
		}
	}
	return lines
}

// match compares a path with the pattern, and returns the line and the place that it names.
func (c chart) match(path []string) (name, place string, is bool) {
	parts := strings.Split(c.pattern, "/")
	if len(parts) != len(path) {
		return "", "", false
	}
	var names []string
	for i, part := range parts {
		switch part {
		case "*":
			names = append(names, strings.ReplaceAll(path[i], "_", " ")) // which go test writes for blanks
		case "x":
			place = path[i]
		case path[i]:
		default:
			return "", "", false
		}
	}
	return strings.Join(names, " "), place, true
}

// axis returns the places of all lines: words first, then numbers in their order.
func axis(lines []line) (places []string) {
	for _, l := range lines {
		places = append(places, l.places...)
	}
	slices.SortFunc(places, func(a, b string) int {
		left, leftErr := strconv.ParseInt(a, 10, 64)
		right, rightErr := strconv.ParseInt(b, 10, 64)
		switch {
		case leftErr == nil && rightErr == nil:
			return int(min(1, max(-1, left-right)))
		case leftErr == nil:
			return 1
		case rightErr == nil:
			return -1
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(places)
}

// written is a place as people read it.
func (c chart) written(place string) string {
	n, err := strconv.ParseInt(place, 10, 64)
	if err != nil {
		return place
	}
	return c.label(n)
}

// count writes a number with thousands and millions.
func count(n int64) string {
	switch {
	case n >= 1_000_000 && n%100_000 == 0:
		return strconv.FormatFloat(float64(n)/1e6, 'f', -1, 64) + "M"
	case n >= 1000 && n%100 == 0:
		return strconv.FormatFloat(float64(n)/1e3, 'f', -1, 64) + "k"
	}
	return strconv.FormatInt(n, 10)
}

// size writes a number of bytes.
func size(n int64) string {
	if n >= 1024 && n%1024 == 0 {
		return fmt.Sprintf("%d KiB", n/1024)
	}
	return fmt.Sprintf("%d B", n)
}
