package storetest_test

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/waybillmq/waybill/reliable"
)

// says reports whether an entry of the history has a reason like this.
func says(r record, like func(reason string) bool) bool {
	return slices.ContainsFunc(r.History, func(e reliable.HistoryEntry) bool { return like(e.Reason) })
}

var listFlaws = []flaw{
	{"what is confirmed is not listed", func(b *broken) {
		b.listedLess(func(r record) bool { return r.Status == reliable.Confirmed })
	}, by("List_each_status_lists_what_stands_there")},
	{"what is discarded is listed with what is compensated", func(b *broken) {
		b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
			page, err := b.Store.List(ctx, req)
			if err == nil && req.Status == reliable.Compensated && req.After == "" {
				req.Status = reliable.Discarded
				more, _ := b.Store.List(ctx, req)
				page.Records = append(page.Records, more.Records...)
			}
			return page, err
		}
	}, by("List_each_status_lists_what_stands_there")},
	{"what waits behind its key is not listed", func(b *broken) {
		b.listedLess(func(r record) bool { return r.Waiting })
	}, by("List_what_is_pending_is_listed_whatever_it_waits_for")},
	{"what is leased or delayed is not listed", func(b *broken) {
		b.listedLess(func(r record) bool { return r.DueIn > 0 })
	}, by("List_what_is_pending_is_listed_whatever_it_waits_for")},
	{"what is parked is not listed", func(b *broken) {
		b.listedLess(func(r record) bool { return r.Held })
	}, by("List_what_is_parked_is_listed")},
	{"the case of a topic is ignored", func(b *broken) {
		b.listedAtOnce(func(r record, f reliable.Filter) bool { return f.Topic == "" || strings.EqualFold(r.Topic, f.Topic) })
	}, by("List_a_topic_is_matched_byte_by_byte")},
	{"the blanks at the end of a topic are ignored", func(b *broken) {
		b.listedAtOnce(func(r record, f reliable.Filter) bool {
			return f.Topic == "" || strings.TrimRight(r.Topic, " ") == strings.TrimRight(f.Topic, " ")
		})
	}, by("List_a_topic_is_matched_byte_by_byte")},
	{"what is young is listed", func(b *broken) {
		b.beforeList(func(req *listRequest) { req.OlderThan = 0 })
	}, by("List_what_is_younger_is_left_out")},
	{"the age is how long it has been failing", func(b *broken) {
		b.listedAtOnce(func(r record, f reliable.Filter) bool { return r.FailingFor >= f.OlderThan })
	}, by("List_what_is_younger_is_left_out")},
	{"reasons are ignored", func(b *broken) {
		b.beforeList(func(req *listRequest) { req.Reason = "" })
	}, by("List_a_reason_is_matched_in_all_of_the_history")},
	{"the case of a reason is ignored", func(b *broken) {
		b.listedAtOnce(func(r record, f reliable.Filter) bool {
			return says(r, func(reason string) bool {
				return strings.Contains(strings.ToLower(reason), strings.ToLower(f.Reason))
			})
		})
	}, by("List_a_reason_is_matched_in_all_of_the_history")},
	{"the last reason is the only one", func(b *broken) {
		b.listedAtOnce(func(r record, f reliable.Filter) bool {
			return len(r.History) > 0 && strings.Contains(r.History[len(r.History)-1].Reason, f.Reason)
		})
	}, by("List_a_reason_is_matched_in_all_of_the_history")},
	{"a reason is a pattern", func(b *broken) {
		b.listedAtOnce(func(r record, f reliable.Filter) bool {
			return says(r, func(reason string) bool {
				for part := range strings.SplitSeq(f.Reason, "%") {
					if !strings.Contains(reason, part) {
						return false
					}
				}
				return true
			})
		})
	}, by("List_a_reason_is_matched_in_all_of_the_history")},
	{"decisions have no reasons", func(b *broken) {
		b.listedAtOnce(func(r record, f reliable.Filter) bool {
			return slices.ContainsFunc(r.History, func(e reliable.HistoryEntry) bool {
				return e.Kind != reliable.OperatorDecided && strings.Contains(e.Reason, f.Reason)
			})
		})
	}, by("List_a_reason_is_matched_in_all_of_the_history")},
	{"a list reads payloads", func(b *broken) {
		b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
			page, err := b.Store.List(ctx, req)
			for i := range page.Records {
				if r, there := b.row(page.Records[i].ID); there {
					page.Records[i].Payload = r.Payload
				}
			}
			return page, err
		}
	}, by("List_records_come_without_payload_and_history,_and_with_all_else")},
	{"a list reads nothing but the ids", func(b *broken) {
		b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
			page, err := b.Store.List(ctx, req)
			for i, r := range page.Records {
				page.Records[i] = record{Status: r.Status, Attempt: attempt{Envelope: envelope{ID: r.ID, Topic: r.Topic}}}
			}
			return page, err
		}
	}, by("List_records_come_without_payload_and_history,_and_with_all_else")},
	{"each page loses a record", func(b *broken) {
		b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
			page, err := b.Store.List(ctx, req)
			if page.Next != "" && req.Limit > 1 {
				page.Records = page.Records[:len(page.Records)-1]
			}
			return page, err
		}
	}, by("List_pages_follow_one_another_without_gaps_and_repetitions")},
	{"each page begins with the end of the one before", func(b *broken) {
		last := make(map[reliable.Cursor]record)
		b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
			page, err := b.Store.List(ctx, req)
			if before, there := last[req.After]; there && len(page.Records) < req.Limit {
				page.Records = append([]record{before}, page.Records...)
			}
			if page.Next != "" {
				last[page.Next] = page.Records[len(page.Records)-1]
			}
			return page, err
		}
	}, by("List_pages_follow_one_another_without_gaps_and_repetitions")},
	{"a page is as long as it likes", func(b *broken) {
		b.beforeList(func(req *listRequest) { req.Limit = min(req.Limit*10, reliable.MaxPage) })
	}, by("List_pages_follow_one_another_without_gaps_and_repetitions")},
	{"a filter finds what is in the first thousand", func(b *broken) {
		b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
			topic := req.Topic
			if topic == "" || req.Status != reliable.Pending {
				return b.Store.List(ctx, req)
			}
			req.Topic, req.Limit = "", reliable.MaxPage
			page, err := b.Store.List(ctx, req)
			page.Records = slices.DeleteFunc(page.Records, func(r record) bool { return r.Topic != topic })
			page.Next = ""
			return page, err
		}
	}, by("List_a_filter_that_matches_little_ends_all_the_same")},
	{"the cursor is how many were listed", func(b *broken) {
		b.list = func(_ context.Context, req listRequest) (reliable.Page, error) {
			first, err := strconv.Atoi("0" + string(req.After))
			var all []record
			for _, r := range b.Store.Records() {
				if r.Status == req.Status {
					all = append(all, r)
				}
			}
			all = all[min(first, len(all)):]
			page := reliable.Page{Records: all[:min(req.Limit, len(all))]}
			if len(all) > req.Limit {
				page.Next = reliable.Cursor(strconv.Itoa(first + req.Limit))
			}
			return page, err
		}
	}, by("List_a_walk_is_not_put_off_by_what_comes_and_goes")},
	{"bad lists are mended", func(b *broken) {
		b.beforeList(func(req *listRequest) {
			req.Limit = min(max(req.Limit, 1), reliable.MaxPage)
			req.Status = min(req.Status, reliable.Discarded)
			req.OlderThan = max(req.OlderThan, 0)
		})
	}, by("List_bad_requests_and_other_cursors_are_refused")},
	{"a cursor that is none begins from the beginning", func(b *broken) {
		b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
			page, err := b.Store.List(ctx, req)
			if err != nil {
				req.After = ""
				page, err = b.Store.List(ctx, req)
			}
			return page, err
		}
	}, by("List_bad_requests_and_other_cursors_are_refused")},
}
