package witnesstest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bank is a database in memory whose witness can be broken.
type bank struct {
	lock  sync.Mutex
	fates []reliable.Fate                                                                // by the number in the token
	flaw  func(b *bank, token reliable.Token, fate reliable.Fate) (reliable.Fate, error) // what Ask says instead
	mark  func(token reliable.Token) reliable.Token
	takes bool // takes anything for a transaction
	deaf  bool // does not look at contexts
}

type bankTx struct {
	bank   *bank
	number int
}

func (b *bank) Mark(_ context.Context, tx any) (reliable.Token, error) {
	marked, ok := tx.(*bankTx)
	switch {
	case !ok && b.takes:
		return "bank:0", nil
	case !ok:
		return "", reliable.Invalid("tx", "is a %T", tx)
	}
	token := reliable.Token(fmt.Sprintf("bank:%d", marked.number))
	if b.mark != nil {
		token = b.mark(token)
	}
	return token, nil
}

func (b *bank) Ask(ctx context.Context, _ reliable.ID, token reliable.Token) (reliable.Fate, error) {
	if err := ctx.Err(); err != nil && !b.deaf {
		return 0, err
	}
	b.lock.Lock()
	defer b.lock.Unlock()
	fate := reliable.FateUnknowable
	var number int
	if n, err := fmt.Sscanf(string(token), "bank:%d", &number); n == 1 && err == nil && number < len(b.fates) &&
		string(token) == fmt.Sprintf("bank:%d", number) {
		fate = b.fates[number]
	}
	if b.flaw != nil {
		return b.flaw(b, token, fate)
	}
	return fate, nil
}

func (b *bank) begin(testing.TB) Business {
	b.lock.Lock()
	defer b.lock.Unlock()
	tx := &bankTx{b, len(b.fates)}
	b.fates = append(b.fates, reliable.FateOpen)
	end := func(fate reliable.Fate) func(context.Context) error {
		return func(context.Context) error {
			b.lock.Lock()
			defer b.lock.Unlock()
			b.fates[tx.number] = fate
			return nil
		}
	}
	return Business{
		Tx:        tx,
		Insert:    func(context.Context, reliable.ID) error { return nil },
		Savepoint: func(_ context.Context, fn func() error) error { return fn() },
		Commit:    end(reliable.FateCommitted),
		Rollback:  end(reliable.FateAborted),
		Kill: func(t testing.TB) {
			if err := end(reliable.FateAborted)(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func harness(open func() *bank) Harness {
	return Harness{NeedsToken: true, Open: func(testing.TB) Subject {
		b := open()
		return Subject{Witness: b, Begin: b.begin}
	}}
}

func TestRun_aSoundWitnessPasses(t *testing.T) { Run(t, harness(func() *bank { return &bank{} })) }

func TestChecks_catchBrokenWitnesses(t *testing.T) {
	saying := func(when, instead reliable.Fate) func() *bank {
		return func() *bank {
			return &bank{flaw: func(_ *bank, _ reliable.Token, fate reliable.Fate) (reliable.Fate, error) {
				if fate == when {
					fate = instead
				}
				return fate, nil
			}}
		}
	}
	for _, flaw := range []struct {
		name  string
		open  func() *bank
		check string
	}{
		{"takes what it does not find for aborted", saying(reliable.FateOpen, reliable.FateAborted), "open until it commits"},
		{"takes what is open for committed", saying(reliable.FateOpen, reliable.FateCommitted), "open until it commits"},
		{"never commits itself", saying(reliable.FateCommitted, reliable.FateUnknowable), "open until it commits"},
		{"takes what aborted for committed", saying(reliable.FateAborted, reliable.FateCommitted), "aborted once it is rolled back"},
		{"takes what aborted for open", saying(reliable.FateAborted, reliable.FateOpen), "aborted once it is rolled back"},
		{"takes a dead connection for a commit", saying(reliable.FateAborted, reliable.FateCommitted), "a transaction whose connection ends is aborted"},
		{"takes a foreign token for aborted", saying(reliable.FateUnknowable, reliable.FateAborted), "a token that is not its own is unknowable"},
		{"fails on a foreign token", func() *bank {
			return &bank{flaw: func(_ *bank, _ reliable.Token, fate reliable.Fate) (reliable.Fate, error) {
				if fate == reliable.FateUnknowable {
					return 0, errors.New("bad token")
				}
				return fate, nil
			}}
		}, "a token that is not its own is unknowable"},
		{"answers for the newest transaction", func() *bank {
			return &bank{flaw: func(b *bank, _ reliable.Token, _ reliable.Fate) (reliable.Fate, error) {
				return b.fates[len(b.fates)-1], nil
			}}
		}, "a retried transaction has a fate of its own"},
		{"changes its mind", func() *bank {
			asked := map[reliable.Token]bool{}
			return &bank{flaw: func(_ *bank, token reliable.Token, fate reliable.Fate) (reliable.Fate, error) {
				if fate == reliable.FateCommitted && !asked[token] {
					asked[token] = true
					return reliable.FateAborted, nil
				}
				return fate, nil
			}}
		}, "no answer is taken back while transactions end"},
		{"gives a token without a name", func() *bank {
			return &bank{mark: func(reliable.Token) reliable.Token { return "" }}
		}, "a token fits into a header"},
		{"gives a token that no header takes", func() *bank {
			return &bank{mark: func(token reliable.Token) reliable.Token { return token + "\n" }}
		}, "a token fits into a header"},
		{"gives a token of any length", func() *bank {
			return &bank{mark: func(token reliable.Token) reliable.Token {
				return token + reliable.Token(strings.Repeat("0", reliable.MaxTokenBytes))
			}}
		}, "a token fits into a header"},
		{"takes anything for a transaction", func() *bank { return &bank{takes: true} }, "what is no transaction is refused"},
		{"does not look at contexts", func() *bank { return &bank{deaf: true} }, "an answer ends with the context"},
		{"says that a scope aborts everything", saying(reliable.FateCommitted, reliable.FateAborted), "a scope that is rolled back does not abort the rest"},
	} {
		t.Run(flaw.name, func(t *testing.T) {
			assert.NotEmpty(t, failures(t, flaw.check, harness(flaw.open)), "the check %q saw nothing", flaw.check)
		})
	}
}

// A witness by the id alone says the same of every transaction of the id.
func TestChecks_catchAWitnessByIDThatForgetsTheRetry(t *testing.T) {
	h := harness(func() *bank { return &bank{} })
	h.NeedsToken = false
	assert.NotEmpty(t, failures(t, "a retried transaction that shares its id committed", h))
}

// failures are those of one check.
func failures(t *testing.T, name string, h Harness) []string {
	t.Helper()
	for _, c := range checks() {
		if c.name == name {
			r := &recorder{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				c.run(r, h)
			}()
			<-done
			return r.failures
		}
	}
	t.Fatalf("there is no check %q", name)
	return nil
}

// recorder takes the failures of a check, so that the test can demand them.
type recorder struct {
	testing.TB

	lock     sync.Mutex
	failures []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) FailNow() {
	r.Errorf("failed")
	runtime.Goexit()
}
