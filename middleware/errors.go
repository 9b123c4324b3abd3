package middleware

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
)

// Permanent marks an error of a handler as one that trying again does not change: the message goes to the poison topic at
// once. It is nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

// Postpone marks an error of a handler as no fault of the message: what the handler depends on is down. The message is
// given back after a pause and not charged, however often; a breaker counts it as a failure. It is nil for nil.
func Postpone(err error) error {
	if err == nil {
		return nil
	}
	return &postponedError{err}
}

// IsPermanent reports whether err, or what it wraps, was marked by [Permanent].
func IsPermanent(err error) bool { return isA[*permanentError](err) }

// IsPostponed reports whether err, or what it wraps, was marked by [Postpone].
func IsPostponed(err error) bool { return isA[*postponedError](err) }

type permanentError struct{ cause error }

func (e *permanentError) Error() string { return e.cause.Error() }
func (e *permanentError) Unwrap() error { return e.cause }

type postponedError struct{ cause error }

func (e *postponedError) Error() string { return e.cause.Error() }
func (e *postponedError) Unwrap() error { return e.cause }

// isA reports whether an error of type T is in err's chain.
func isA[T error](err error) bool {
	var found T
	return errors.As(err, &found)
}

// PanicError is what a panic of a handler becomes.
type PanicError struct {
	// Value is what the handler panicked with.
	Value any
	// Stack says where: functions with file and line, innermost first.
	Stack string
}

// Error does not repeat the stack: it becomes the reason of a poison message.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Unwrap returns the value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// recoveredName is where a handler's stack ends.
const recoveredName = "github.com/waybillmq/waybill/middleware.recovered"

// maxFrames is how much of a stack is looked at; the cut to maxStack bytes usually comes first.
const maxFrames = 64

// panicStack returns the frames between the panic and this package, on one line. It is called by the function that was
// deferred.
func panicStack() string {
	callers := make([]uintptr, maxFrames)
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers)]) // less Callers, panicStack and the deferred one
	var stack strings.Builder
	for {
		frame, more := frames.Next()
		if frame.Function == recoveredName {
			break
		}
		if !strings.HasPrefix(frame.Function, "runtime.") {
			if stack.Len() > 0 {
				stack.WriteString("; ")
			}
			fmt.Fprintf(&stack, "%s (%s:%d)", frame.Function, base(frame.File), frame.Line)
		}
		if !more {
			break
		}
	}
	return stack.String()
}

// base is the file's name with its folder: no path of the machine that it was built on.
func base(file string) string {
	parts := strings.Split(file, "/")
	return strings.Join(parts[max(0, len(parts)-2):], "/")
}
