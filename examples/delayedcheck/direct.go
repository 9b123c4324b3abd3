package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// direct plays the scenario on a pair: it starts the processes, kills them, and compares what came of it. patience is how
// long it waits, once all orders are placed, for the last of them to be shipped and every check to be answered.
func direct(ctx context.Context, p pair, orders int, patience time.Duration, out io.Writer) (result Result, err error) {
	if orders < 10 {
		return Result{}, fmt.Errorf("%d orders are too few: take at least 10", orders)
	}
	dir, err := os.MkdirTemp("", "waybill-delayedcheck-")
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newStage(ctx, p, dir, orders)
	if err != nil {
		return Result{}, err
	}
	fmt.Fprintf(out, "%s\n\n", p.name)
	drop, err := makeDatabases(ctx, p, s)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, drop()) }()
	d := &director{pair: p, stage: s, held: orders / 3, out: out, begun: time.Now(), running: make(map[string]*process)}
	defer func() { err = errors.Join(err, d.killAll(), clearBroker(context.WithoutCancel(ctx), s)) }()
	if err := d.play(ctx); err != nil {
		return Result{}, err
	}
	audit, err := openAudit(ctx, s, orderID(d.held))
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, audit.close()) }()
	result, err = audit.awaitQuiet(ctx, patience)
	if err != nil {
		return Result{}, err
	}
	fmt.Fprintf(out, "\n%s\n\n", result)
	return result, nil
}

type director struct {
	pair    pair
	stage   stage
	held    int // the order at which the shop is killed
	out     io.Writer
	begun   time.Time
	running map[string]*process
}

func (d *director) say(format string, args ...any) {
	fmt.Fprintf(d.out, "%5.1f s  %s\n", time.Since(d.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (d *director) start(ctx context.Context, s stage, role string) error {
	p, err := start(ctx, s, role)
	if err != nil {
		return err
	}
	d.running[role] = p
	d.say("%s runs as process %d", role, p.cmd.Process.Pid)
	return nil
}

func (d *director) kill(role string) error {
	p := d.running[role]
	delete(d.running, role)
	return p.kill(nil)
}

func (d *director) killAll() (err error) {
	for role := range d.running {
		err = errors.Join(err, d.kill(role))
	}
	return err
}

func (d *director) play(ctx context.Context) error {
	if d.stage.Embedded != "" {
		if err := d.start(ctx, d.stage, brokerRole); err != nil {
			return err
		}
	}
	held := d.stage
	held.HoldAt = d.held
	for _, role := range []string{shippingRole, callbackRole} {
		if err := d.start(ctx, d.stage, role); err != nil {
			return err
		}
	}
	if err := d.start(ctx, held, shopRole); err != nil {
		return err
	}

	if err := d.running[shopRole].await(ctx, "holding"); err != nil {
		return err
	}
	d.say("kill -9 shop: %s is committed, its message not sent", orderID(d.held))
	if err := d.kill(shopRole); err != nil {
		return err
	}
	if err := d.start(ctx, d.stage, shopRole); err != nil {
		return err
	}

	if err := d.running[shopRole].await(ctx, "placed"); err != nil {
		return err
	}
	for _, role := range []string{shippingRole, callbackRole} {
		d.say("kill -9 %s", role)
		if err := d.kill(role); err != nil {
			return err
		}
		if err := d.start(ctx, d.stage, role); err != nil {
			return err
		}
	}
	if err := d.restartBroker(ctx); err != nil {
		return err
	}
	if err := d.running[shopRole].await(ctx, "placed all"); err != nil {
		return err
	}
	d.say("all orders are placed; checks come due %v after each", d.stage.Delay)
	return nil
}

func (d *director) restartBroker(ctx context.Context) error {
	stop, start := d.pair.stop, d.pair.start
	if d.stage.Embedded != "" {
		stop = func(context.Context) error {
			p := d.running[brokerRole]
			delete(d.running, brokerRole)
			return p.end()
		}
		start = func(ctx context.Context) error { return d.start(ctx, d.stage, brokerRole) }
	}
	d.say("stopping the broker; orders are tried again until their checks are durable")
	if err := stop(ctx); err != nil {
		return err
	}
	select {
	case <-time.After(time.Second): // an outage that everybody notices
	case <-ctx.Done():
	}
	if err := start(context.WithoutCancel(ctx)); err != nil { // nobody is left without it
		return err
	}
	d.say("the broker is back")
	return ctx.Err()
}
