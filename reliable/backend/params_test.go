package backend_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

func paramsOf(query string) *backend.Params { return backend.ParamsOf(&url.URL{RawQuery: query}) }

func TestParams_areReadAsTheirTypes(t *testing.T) {
	p := paramsOf("name=a%20b&topics=a,b&window=7&timeout=1m30s&mandatory=false&type=quorum")
	text, ok := p.Text("name")
	assert.True(t, ok)
	assert.Equal(t, "a b", text)
	list, ok := p.List("topics")
	assert.True(t, ok)
	assert.Equal(t, []string{"a", "b"}, list)
	n, ok := p.Int("window", 1, 10)
	assert.True(t, ok)
	assert.Equal(t, 7, n)
	d, ok := p.Duration("timeout", time.Second, time.Hour)
	assert.True(t, ok)
	assert.Equal(t, 90*time.Second, d)
	assert.False(t, p.Bool("mandatory", true))
	choice, ok := p.Choice("type", "classic", "quorum")
	assert.True(t, ok)
	assert.Equal(t, "quorum", choice)
	require.NoError(t, p.Err())
}

func TestParams_thatAreNotGivenAreNoProblem(t *testing.T) {
	p := paramsOf("")
	_, text := p.Text("a")
	_, list := p.List("b")
	_, number := p.Int("c", 1, 2)
	_, duration := p.Duration("d", 1, 2)
	_, choice := p.Choice("e", "x")
	assert.False(t, text || list || number || duration || choice, "what is not given is reported as given")
	assert.True(t, p.Bool("f", true))
	assert.False(t, p.Bool("g", false))
	require.NoError(t, p.Err())
}

func TestParams_reportEverythingThatIsWrongTogether(t *testing.T) {
	p := paramsOf("windw=3&window=0&timeout=5&mandatory=yes&type=lazy&twice=1&twice=2&topics=a,,b&empty=")
	_, ok := p.Int("window", 1, 10)
	assert.False(t, ok)
	_, ok = p.Duration("timeout", time.Second, time.Hour)
	assert.False(t, ok)
	assert.True(t, p.Bool("mandatory", true), "a wrong value is not taken for its opposite")
	_, ok = p.Choice("type", "classic", "quorum")
	assert.False(t, ok)
	_, ok = p.Int("twice", 1, 10)
	assert.False(t, ok)
	_, ok = p.List("topics")
	assert.False(t, ok)
	_, ok = p.Text("empty")
	assert.False(t, ok)
	p.Refuse("path", "has %d parts", 2)

	err := p.Err()
	for _, says := range []string{
		`parameter "window": is "0", must be a number from 1 to 10`,
		`parameter "timeout": is "5", must be a duration from 1s to 1h0m0s, such as 1m30s or 500ms`,
		`parameter "mandatory": is "yes", must be one of true, false`,
		`parameter "type": is "lazy", must be one of classic, quorum`,
		`parameter "twice": is given 2 times`,
		`parameter "topics": is "a,,b", which has an empty element`,
		`parameter "empty": is empty`,
		`parameter "windw": is unknown; possible are window, timeout, mandatory, type, twice, topics, empty`,
		`path: has 2 parts`,
	} {
		require.ErrorContains(t, err, says)
	}
	many, _ := err.(interface{ Unwrap() []error })
	require.NotNil(t, many)
	for _, one := range many.Unwrap() {
		var invalid *reliable.InvalidError
		require.ErrorAs(t, one, &invalid)
	}
}

func TestParams_thatCannotBeParsedAreRefused(t *testing.T) {
	for _, query := range []string{"a=%zz", "a=1;b=2"} {
		require.ErrorIs(t, paramsOf(query).Err(), reliable.ErrInvalid, query)
	}
	err := paramsOf("a=1").Err()
	assert.ErrorContains(t, err, "it takes none")
}

// What a URL holds may be anything, and a log has lines.
func FuzzParams_sayOneShortLineForEachProblem(f *testing.F) {
	f.Add("window=1", "window")
	f.Add("window=%0A&%00=", "x")
	f.Fuzz(func(t *testing.T, query, name string) {
		p := paramsOf(query)
		p.Int(name, 1, 2)
		p.List("topics")
		err := p.Err()
		if err == nil {
			return
		}
		if !errors.Is(err, reliable.ErrInvalid) {
			t.Fatalf("not ErrInvalid: %v", err)
		}
		if strings.ContainsAny(err.Error(), "\x00\r\x1b") {
			t.Fatalf("control characters in %q", err)
		}
	})
}
