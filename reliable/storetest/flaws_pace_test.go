package storetest_test

import (
	"context"
	"strings"
	"time"

	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
)

var paceFlaws = []flaw{
	{"every instance has a pace of its own", func(b *broken) {
		b.reopen = func() reliable.Store { return memstore.New() }
	}, by("Pace_turns_come_at_the_pace,_after_a_burst")},
	{"turns of all names are one", func(b *broken) {
		b.pace = func(ctx context.Context, _ string, pace reliable.Pace, n int) (int, time.Duration, error) {
			return b.Store.Pace(ctx, "all", pace, n)
		}
	}, by("Pace_turns_come_at_the_pace,_after_a_burst")},
	{"names are compared without their case", func(b *broken) {
		b.pace = func(ctx context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
			return b.Store.Pace(ctx, strings.ToLower(name), pace, n)
		}
	}, by("Pace_turns_come_at_the_pace,_after_a_burst")},
	{"quiet times add up", func(b *broken) {
		b.pace = func(ctx context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
			booked, first, err := b.Store.Pace(ctx, name, pace, n)
			if first < 0 {
				first -= pace.Every
			}
			return booked, first, err
		}
	}, by("Pace_a_quiet_time_gives_no_more_than_the_burst", "Pace_turns_come_at_the_pace,_after_a_burst")},
	{"turns are booked however far ahead", func(b *broken) {
		b.pace = func(ctx context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
			pace.Within = 30 * 24 * time.Hour
			return b.Store.Pace(ctx, name, pace, n)
		}
	}, by("Pace_no_turn_is_booked_further_ahead_than_asked")},
	{"what is not booked is used up", func(b *broken) {
		b.pace = func(ctx context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
			booked, first, err := b.Store.Pace(ctx, name, pace, n)
			if err == nil && booked < n {
				pace.Within = 30 * 24 * time.Hour
				_, _, err = b.Store.Pace(ctx, name, pace, n-booked)
			}
			return booked, first, err
		}
	}, by("Pace_no_turn_is_booked_further_ahead_than_asked")},
	{"a booking leaves no trace", func(b *broken) {
		b.pace = func(_ context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
			booked, first, _ := pace.Book(0, max(n, 1))
			return booked, first, pace.Check(name, n)
		}
	}, by("Pace_of_concurrent_bookings_no_two_have_one_turn", "Pace_turns_come_at_the_pace,_after_a_burst",
		"Pace_no_turn_is_booked_further_ahead_than_asked", "Pace_a_quiet_time_gives_no_more_than_the_burst")},
	{"anything is taken for a pace", func(b *broken) {
		b.pace = func(ctx context.Context, name string, pace reliable.Pace, n int) (int, time.Duration, error) {
			if pace.Check(name, n) != nil {
				return 0, 0, nil
			}
			return b.Store.Pace(ctx, name, pace, n)
		}
	}, by("Pace_what_makes_no_sense_is_refused")},
}
