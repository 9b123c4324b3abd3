package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/waybillmq/waybill/reliable"
)

// The exit codes, in the words of `waybill help exit-codes`.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNothing     = 3
	exitPartly      = 4
	exitSchema      = 5
	exitNotDrained  = 6
	exitInterrupted = 130
)

const exitCodes = `Every command ends with one of these:

  0    done. What was asked for is so; an empty list is an answer.
  1    failure: the store or the broker cannot be reached, or did not do it.
  2    usage: a flag, an argument or a URL is missing or wrong, or a confirmation
       was needed and nobody could be asked. Nothing was done.
  3    nothing: no message has the ID, or none matches. Nothing was done.
  4    partly: not every message that was named could be decided, or a limit was
       reached before all that match were. The output says which and why.
  5    schema: the tables are missing, too old or too new for this program.
       Run 'waybill migrate apply', or update this program.
  6    not drained: the relay stopped with messages unconfirmed. Nothing is lost:
       their leases run out, and they are sent again.
  130  interrupted by a signal. What had been recorded stays so. (A relay that is
       told to stop by a signal drains, and ends with 0.)
`

// usageError is the caller's fault, found before anything was done.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// exitError carries an exit code of its own. The text has been written already if it is empty.
type exitError struct {
	code int
	text string
}

func (e exitError) Error() string { return e.text }

// errNothing is the end of a command that found no message.
func errNothing(format string, args ...any) error {
	return exitError{exitNothing, fmt.Sprintf(format, args...)}
}

// codeOf is the exit code that err stands for.
func codeOf(ctx context.Context, err error) int {
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &usage):
		return exitUsage
	case ctx.Err() != nil:
		return exitInterrupted
	case errors.Is(err, reliable.ErrSchema):
		return exitSchema
	case errors.Is(err, reliable.ErrDrain):
		return exitNotDrained
	case errors.Is(err, reliable.ErrInvalid):
		return exitUsage
	}
	return exitFailure
}
