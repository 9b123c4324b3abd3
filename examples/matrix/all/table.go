//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
)

// outcome is what came of a row.
type outcome struct {
	name     string
	strategy string
	counts   map[string]float64 // as the binary printed them
	err      error
}

// problem says what is wrong with a row; empty if nothing is.
func (o *outcome) problem() string {
	switch {
	case o.err != nil:
		return o.err.Error()
	case o.counts["delivered"] == 0:
		return "nothing was delivered"
	case o.counts["lost"] > 0:
		return fmt.Sprintf("%.0f lost", o.counts["lost"])
	case o.counts["pending"] > 0:
		return fmt.Sprintf("%.0f still pending", o.counts["pending"])
	}
	return ""
}

func (o *outcome) verdict() string {
	if problem := o.problem(); problem != "" {
		return "BROKEN: " + problem
	}
	return "ok"
}

// table is the outcomes of all rows.
type table []outcome

func (t table) err() error {
	if len(t) == 0 {
		return errors.New("there is no such row")
	}
	var problems []error
	for i := range t {
		o := &t[i]
		if problem := o.problem(); problem != "" {
			problems = append(problems, fmt.Errorf("%s, %s: %s", o.name, o.strategy, problem))
		}
	}
	return errors.Join(problems...)
}

// String is the table for people. The rate includes the outage.
func (t table) String() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "broker+store\tstrategy\tsent\tconfirmed\tfailed\tdelivered\tduplicates\tlost\tmsg/s\t")
	for i := range t {
		o := &t[i]
		rate := 0.0
		if o.counts["seconds"] > 0 {
			rate = o.counts["delivered"] / o.counts["seconds"]
		}
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", o.name, o.strategy, o.counts["orders"], o.counts["confirmed"],
			o.counts["failed"], o.counts["delivered"], o.counts["duplicates"], o.counts["lost"], rate)
	}
	_ = w.Flush() // to a strings.Builder
	return out.String()
}
