package main

import (
	"context"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// patient is a store each of whose calls for operators takes so long and no longer, however many of them a command makes.
type patient struct {
	reliable.Store
	operator  reliable.Operator
	inspector reliable.Inspector
	timeout   time.Duration
}

var (
	_ reliable.Operator  = patient{}
	_ reliable.Inspector = patient{}
	_ reliable.Wrapper   = patient{}
)

// withPatience bounds the calls of a store, if it has any that are for operators.
func withPatience(store reliable.Store, timeout time.Duration) reliable.Store {
	operator, operates := reliable.Ability[reliable.Operator](store)
	inspector, inspects := reliable.Ability[reliable.Inspector](store)
	if !operates || !inspects {
		return store
	}
	return patient{store, operator, inspector, timeout}
}

func (p patient) Unwrap() any { return p.Store }

func (p patient) List(ctx context.Context, req reliable.ListRequest) (reliable.Page, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return p.operator.List(ctx, req)
}

func (p patient) Decide(ctx context.Context, d reliable.Decision) ([]reliable.DecisionResult, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return p.operator.Decide(ctx, d)
}

func (p patient) Stats(ctx context.Context) ([]reliable.TopicStats, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return p.inspector.Stats(ctx)
}

func (p patient) Lookup(ctx context.Context, ids ...reliable.ID) ([]reliable.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	return p.inspector.Lookup(ctx, ids...)
}
