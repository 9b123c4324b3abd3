package httprpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type answering func(context.Context, delayedcheck.Check) (delayedcheck.Answer, error)

func (a answering) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	return a(ctx, check)
}

func key(id string) httprpc.Key {
	return httprpc.Key{ID: id, Secret: bytes.Repeat([]byte(id[:1]), httprpc.MinSecretBytes)}
}

func check() delayedcheck.Check {
	return delayedcheck.Check{
		Message: reliable.Envelope{ID: "order-1", Topic: "orders", Payload: []byte("secret\n\x00\xff")},
		Token:   "token", Groups: []string{"billing"}, Producer: "shop", Round: 1,
	}
}

// wire is a transport without a network, so that it works under virtual time: requests reach the handler as alter leaves them.
type wire struct {
	handler http.Handler
	alter   func(*http.Request)
	answer  func(*httptest.ResponseRecorder)
}

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if w.alter != nil {
		w.alter(r)
	}
	recorder := httptest.NewRecorder()
	w.handler.ServeHTTP(recorder, r)
	if w.answer != nil {
		w.answer(recorder)
	}
	return recorder.Result(), nil
}

type rig struct {
	handler *httprpc.Handler
	asked   atomic.Int64
}

func newRig(t *testing.T, opts ...httprpc.HandlerOption) *rig {
	t.Helper()
	r := &rig{}
	handler, err := httprpc.NewHandler(answering(func(context.Context, delayedcheck.Check) (delayedcheck.Answer, error) {
		r.asked.Add(1)
		return delayedcheck.Resent, nil
	}), []httprpc.Key{key("new"), key("old")}, opts...)
	require.NoError(t, err)
	r.handler = handler
	return r
}

func (r *rig) client(t *testing.T, key httprpc.Key, w wire) *httprpc.Client {
	t.Helper()
	w.handler = r.handler
	client, err := httprpc.NewClient("http://localhost/resend", key, httprpc.WithTransport(w))
	require.NoError(t, err)
	return client
}

func TestResend_carriesCheckAndAnswer(t *testing.T) {
	for _, answer := range []delayedcheck.Answer{delayedcheck.Unknowable, delayedcheck.Resent, delayedcheck.Aborted, delayedcheck.StillOpen} {
		t.Run(answer.String(), func(t *testing.T) {
			handler, err := httprpc.NewHandler(answering(func(_ context.Context, got delayedcheck.Check) (delayedcheck.Answer, error) {
				assert.Equal(t, check(), got)
				return answer, nil
			}), []httprpc.Key{key("new")})
			require.NoError(t, err)
			server := httptest.NewServer(handler)
			defer server.Close()
			defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
			client, err := httprpc.NewClient(server.URL+"/a%2Fb", key("new"))
			require.NoError(t, err)

			got, err := client.Resend(t.Context(), check())
			require.NoError(t, err)
			assert.Equal(t, answer, got)
			assert.Equal(t, httprpc.Stats{Answered: 1}, handler.Stats())
		})
	}
}

func TestResend_takesEachOfItsKeys(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"old", "new"} {
		_, err := r.client(t, key(id), wire{}).Resend(t.Context(), check())
		require.NoError(t, err, id)
	}
}

func TestResend_whatIsForgedOrAlteredHasNoEffectAndIsCounted(t *testing.T) {
	wrongSecret := key("new")
	wrongSecret.Secret = bytes.Repeat([]byte("x"), httprpc.MinSecretBytes)
	alter := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, attack := range map[string]struct {
		key   httprpc.Key
		alter func(*http.Request)
	}{
		"unknown key":       {key: key("elsewhere")},
		"another's secret":  {key: wrongSecret},
		"another key's id":  {key: key("new"), alter: alter("Waybill-Key", "old")},
		"no signature":      {key: key("new"), alter: func(r *http.Request) { r.Header.Del("Waybill-Signature") }},
		"another time":      {key: key("new"), alter: alter("Waybill-Time", fmt.Sprint(time.Now().Unix()+1))},
		"another nonce":     {key: key("new"), alter: alter("Waybill-Nonce", "again")},
		"another path":      {key: key("new"), alter: func(r *http.Request) { r.URL.Path = "/other" }},
		"another message":   {key: key("new"), alter: func(r *http.Request) { replaceBody(t, r, "order-1", "order-2") }},
		"an altered secret": {key: key("new"), alter: func(r *http.Request) { replaceBody(t, r, "secret", "public") }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			_, err := r.client(t, attack.key, wire{alter: attack.alter}).Resend(t.Context(), check())
			require.ErrorContains(t, err, "401")
			assert.NotErrorIs(t, err, reliable.ErrInvalid, "anybody in between can refuse")
			assert.Zero(t, r.asked.Load())
			assert.Equal(t, httprpc.Stats{Forged: 1}, r.handler.Stats())
		})
	}
}

func replaceBody(t *testing.T, r *http.Request, from, to string) {
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	r.Body = io.NopCloser(bytes.NewReader(bytes.Replace(body, []byte(from), []byte(to), 1)))
}

func TestResend_whatWasTakenDownIsNotTakenTwice(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		r := newRig(t, httprpc.WithWindow(time.Minute))
		var taken *http.Request
		var body []byte
		_, err := r.client(t, key("new"), wire{alter: func(request *http.Request) {
			var err error
			body, err = io.ReadAll(request.Body)
			require.NoError(t, err)
			request.Body = io.NopCloser(bytes.NewReader(body))
			taken = request.Clone(context.Background())
		}}).Resend(t.Context(), check())
		require.NoError(t, err)

		replay := func() int {
			again := taken.Clone(context.Background())
			again.Body = io.NopCloser(bytes.NewReader(body))
			recorder := httptest.NewRecorder()
			r.handler.ServeHTTP(recorder, again)
			return recorder.Code
		}
		assert.Equal(t, http.StatusConflict, replay())
		time.Sleep(time.Minute)
		assert.Equal(t, http.StatusConflict, replay(), "still within the window")
		time.Sleep(time.Second)
		assert.Equal(t, http.StatusUnauthorized, replay(), "the window is over")
		assert.EqualValues(t, 1, r.asked.Load())
		assert.Equal(t, httprpc.Stats{Answered: 1, Replayed: 2, Expired: 1}, r.handler.Stats())

		_, err = r.client(t, key("new"), wire{}).Resend(t.Context(), check())
		require.NoError(t, err, "asking again is no replay")
	})
}

func TestResend_anAnswerThatTheProducerDidNotGiveIsNone(t *testing.T) {
	r := newRig(t)
	for name, forge := range map[string]func(*httptest.ResponseRecorder){
		"altered": func(w *httptest.ResponseRecorder) {
			w.Body = bytes.NewBufferString(`{"answer":"aborted"}`)
		},
		"unsigned": func(w *httptest.ResponseRecorder) { w.Result().Header.Del("Waybill-Signature") },
		"somebody else's": func(w *httptest.ResponseRecorder) {
			w.Result().Header.Set("Waybill-Signature", strings.Repeat("0", 64))
		},
		"a web page": func(w *httptest.ResponseRecorder) { w.Body = bytes.NewBufferString("<html>welcome</html>") },
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := r.client(t, key("new"), wire{answer: forge}).Resend(t.Context(), check())
			require.ErrorContains(t, err, "not signed for this request")
			assert.Equal(t, delayedcheck.Unknowable, answer)
		})
	}
}

func TestHandler_refusesWhatIsNoRequestOfItsKind(t *testing.T) {
	r := newRig(t, httprpc.WithMaxBody(200))
	oversize := check()
	oversize.Message.Payload = make([]byte, 200)
	_, err := r.client(t, key("new"), wire{}).Resend(t.Context(), oversize)
	require.ErrorContains(t, err, "413")
	_, err = r.client(t, key("new"), wire{alter: func(r *http.Request) { r.Method = http.MethodPut }}).Resend(t.Context(), check())
	require.ErrorContains(t, err, "405")
	assert.Equal(t, httprpc.Stats{Oversize: 1, Malformed: 1}, r.handler.Stats())
	assert.Zero(t, r.asked.Load())
}

func TestHandler_rememberNoMoreThanItMay(t *testing.T) {
	r := newRig(t, httprpc.WithMaxRemembered(1))
	_, err := r.client(t, key("new"), wire{}).Resend(t.Context(), check())
	require.NoError(t, err)
	_, err = r.client(t, key("new"), wire{}).Resend(t.Context(), check())
	require.ErrorContains(t, err, "503")
	assert.Equal(t, httprpc.Stats{Answered: 1, Busy: 1}, r.handler.Stats())
}

func TestHandler_answersNoMoreAtATimeThanItMay(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	handler, err := httprpc.NewHandler(answering(func(context.Context, delayedcheck.Check) (delayedcheck.Answer, error) {
		close(entered)
		<-leave
		return delayedcheck.Resent, nil
	}), []httprpc.Key{key("new")}, httprpc.WithMaxInFlight(1))
	require.NoError(t, err)
	r := &rig{handler: handler}
	var first sync.WaitGroup
	first.Go(func() {
		_, err := r.client(t, key("new"), wire{}).Resend(t.Context(), check())
		assert.NoError(t, err)
	})
	<-entered
	_, err = r.client(t, key("new"), wire{}).Resend(t.Context(), check())
	require.ErrorContains(t, err, "503")
	close(leave)
	first.Wait()
	assert.Equal(t, httprpc.Stats{Answered: 1, Busy: 1}, handler.Stats())
}

func TestHandler_aResenderWithoutAnAnswerIsAnErrorThatSaysNothing(t *testing.T) {
	var log bytes.Buffer
	handler, err := httprpc.NewHandler(answering(func(context.Context, delayedcheck.Check) (delayedcheck.Answer, error) {
		return delayedcheck.Resent, errors.New("broker is down")
	}), []httprpc.Key{key("new")}, httprpc.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	require.NoError(t, err)
	r := &rig{handler: handler}
	var answered bytes.Buffer
	_, err = r.client(t, key("new"), wire{answer: func(w *httptest.ResponseRecorder) { answered.Write(w.Body.Bytes()) }}).Resend(t.Context(), check())
	require.ErrorContains(t, err, "500")
	assert.NotContains(t, answered.String(), "broker")
	assert.Contains(t, log.String(), "broker is down")
	assert.NotContains(t, log.String(), "secret")
	assert.Equal(t, httprpc.Stats{Failed: 1}, handler.Stats())
}

func TestHandler_aSlowResenderEndsWithItsTime(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		handler, err := httprpc.NewHandler(answering(func(ctx context.Context, _ delayedcheck.Check) (delayedcheck.Answer, error) {
			<-ctx.Done()
			return delayedcheck.Unknowable, ctx.Err()
		}), []httprpc.Key{key("new")}, httprpc.WithHandlerTimeout(time.Second))
		require.NoError(t, err)
		start := time.Now()
		_, err = (&rig{handler: handler}).client(t, key("new"), wire{}).Resend(t.Context(), check())
		require.ErrorContains(t, err, "500")
		assert.Equal(t, time.Second, time.Since(start))
	})
}
