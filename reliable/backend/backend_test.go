package backend_test

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store stands for an adapter's.
type store struct {
	backend.Store
	url *url.URL
}

// kind returns a kind of its own schemes that opens without any I/O.
func kind(schemes ...string) backend.Kind[backend.Store] {
	return backend.Kind[backend.Store]{
		Schemes: schemes, Example: schemes[0] + "://user:password@host/database",
		Open: func(_ context.Context, u *url.URL) (backend.Store, error) { return &store{url: u}, nil },
	}
}

// failing returns a kind whose Open fails with what fail makes of the URL.
func failing(fail func(u *url.URL) error) backend.Stores {
	k := kind("mysql")
	k.Open = func(_ context.Context, u *url.URL) (backend.Store, error) { return nil, fail(u) }
	k.Schema = func(u *url.URL) (string, error) { return "", fail(u) }
	return backend.Stores{k}
}

func TestOpen_opensTheKindOfTheScheme(t *testing.T) {
	stores := backend.Stores{kind("mysql", "mariadb"), kind("postgres")}
	for rawURL, scheme := range map[string]string{
		"mysql://user:password@host/shop?pool=3": "mysql",
		"mariadb://host/shop":                    "mariadb",
		"POSTGRES://host/shop":                   "postgres",
		"  postgres://host/shop\n":               "postgres", // as a mounted file ends
	} {
		opened, err := stores.Open(t.Context(), rawURL)
		require.NoError(t, err, rawURL)
		assert.Equal(t, scheme, opened.(*store).url.Scheme)
		assert.Equal(t, "/shop", opened.(*store).url.Path)
	}
}

func TestOpen_saysWhatIsWrongWithAURLAndRepeatsNoneOfIt(t *testing.T) {
	stores := backend.Stores{kind("mysql", "mariadb"), kind("postgres")}
	for _, c := range []struct{ name, url, says string }{
		{"nothing", "", "is empty"},
		{"no scheme", "s3cret", "has no scheme"},
		{"another adapter's scheme", "oracle://user:s3cret@host/shop", `scheme "oracle" is not linked in; possible are mariadb, mysql, postgres`},
		{"a driver's own format", "user:s3cret@tcp(host)/shop", "has no // behind its scheme"},
		{"a password first", "s3cret:user", "its scheme is not linked in"},
		{"a port that is none", "mysql://user:s3cret@host:port/shop", "is the port a number"},
		{"a password with #", "mysql://user:1#s3cret@host/shop", "%23"},
		{"a password with /", "mysql://user:1/s3cret@host/shop", "%2F"},
		{"a password with ?", "mysql://user:1?s3cret@host/shop", "%3F"},
		{"a password with %", "mysql://user:%s3cret@host/shop", "percent-encoded"},
		{"a password with a space", "mysql://user:s3 cret@host/shop", "percent-encoded"},
		{"a control character", "mysql://user:s3cret@ho\x00st/shop", "cannot be parsed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := stores.Open(t.Context(), c.url)
			require.ErrorIs(t, err, reliable.ErrInvalid)
			assert.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "s3")
			assert.NotContains(t, err.Error(), "cret")
		})
	}
}

func TestOpen_refusesAListThatContradictsItself(t *testing.T) {
	for name, stores := range map[string]backend.Stores{
		"empty":          nil,
		"listed twice":   {kind("mysql", "mariadb"), kind("postgres", "mariadb")},
		"has no Open":    {{Schemes: []string{"mysql"}}},
		"no Schemes":     {{Open: kind("mysql").Open}},
		`"mysql" is lis`: {kind("mysql"), kind("mysql")},
	} {
		_, err := stores.Open(t.Context(), "mysql://host/shop")
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
		_, schemaErr := stores.Schema("mysql://host/shop")
		require.ErrorIs(t, schemaErr, reliable.ErrInvalid, name)
	}
}

var errDown = errors.New("down")

func TestOpen_redactsWhatADriverSays(t *testing.T) {
	const rawURL = "mysql://shop:s3%63ret%3Fx@db.example.com/shop?auth_token=t0ken%21"
	for name, fail := range map[string]func(u *url.URL) error{
		"the URL":             func(u *url.URL) error { return &url.Error{Op: "parse", URL: u.String(), Err: errDown} },
		"the URL as given":    func(*url.URL) error { return &url.Error{Op: "parse", URL: rawURL, Err: errDown} },
		"the password":        func(*url.URL) error { return errors.Join(errors.New("refused: s3cret?x"), errDown) },
		"the password quoted": func(*url.URL) error { return errors.Join(errors.New(`refused: "s3cret?x"`), errDown) },
		"a parameter":         func(u *url.URL) error { return errors.Join(errors.New(u.Query().Get("auth_token")), errDown) },
		"the query":           func(u *url.URL) error { return errors.Join(errors.New(u.RawQuery), errDown) },
	} {
		t.Run(name, func(t *testing.T) {
			_, opening := failing(fail).Open(t.Context(), rawURL)
			_, printing := failing(fail).Schema(rawURL)
			for _, err := range []error{opening, printing} {
				require.ErrorIs(t, err, errDown, "the cause is lost")
				for _, secret := range []string{"s3cret", "s3%63ret", "t0ken"} {
					assert.NotContains(t, err.Error(), secret)
				}
				if told, ok := errors.AsType[*url.Error](err); ok {
					assert.NotContains(t, told.Error(), "cret", "the cause tells what the text does not")
				}
			}
		})
	}
}

func TestOpen_keepsWhatHoldsNoSecret(t *testing.T) {
	cause := &url.Error{Op: "dial", URL: "db.example.com", Err: errDown}
	_, err := failing(func(*url.URL) error { return cause }).Open(t.Context(), "mysql://shop:s3cret@db.example.com/shop")
	var found *url.Error
	require.ErrorAs(t, err, &found)
	assert.Same(t, cause, found)

	both := func(*url.URL) error { return errors.Join(errors.New("s3cret"), cause) }
	_, err = failing(both).Open(t.Context(), "mysql://shop:s3cret@db.example.com/shop")
	found = nil
	require.ErrorAs(t, err, &found, "a cause that tells nothing is reachable beside one that does")
	assert.NotContains(t, err.Error(), "s3cret")
}

func TestOpen_redactsAShortPasswordWhereItStandsByItself(t *testing.T) {
	fail := func(*url.URL) error { return errors.New("access with abc denied, table abcde, user:abc@host") }
	_, err := failing(fail).Open(t.Context(), "mysql://shop:abc@host/shop")
	assert.ErrorContains(t, err, "access with xxxxx denied, table abcde, user:xxxxx@host")
}

func TestSchema_saysThatThereIsNone(t *testing.T) {
	_, err := backend.Stores{kind("mysql")}.Schema("mysql://host/shop")
	require.ErrorIs(t, err, reliable.ErrInvalid)
	assert.ErrorContains(t, err, "no tables to print")
}

func TestRedact_leavesWhatMayBeLogged(t *testing.T) {
	for rawURL, logged := range map[string]string{
		"mysql://shop:s3cret@host:3306/shop?pool=3": "mysql://shop:xxxxx@host:3306/shop?pool=3",
		"mysql://shop:@host/shop":                   "mysql://shop:xxxxx@host/shop",
		"nats://t0ken@host:4222":                    "nats://xxxxx@host:4222",
		"kafka://host/?sasl_password=s3cret&acks=1": "kafka://host/?sasl_password=xxxxx&acks=1",
		"sqlite:orders.db?create=false":             "sqlite:orders.db?create=false",
		"mysql://shop:s3/cret@host/shop":            "(malformed URL)",
		"shop:s3cret@tcp(host)/shop":                "(malformed URL)",
	} {
		assert.Equal(t, logged, backend.Redact(rawURL))
	}
}
