package httprpc

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// maxAnswerBytes is what an answer may have: it is a few words.
const maxAnswerBytes = 4 << 10

var errUnsigned = errors.New("ask for a resend: the answer is not signed for this request; " +
	"does something other than the producer answer at the address?")

// Client is a [delayedcheck.Resender] that asks a [Handler]. It is safe for concurrent use.
type Client struct {
	address *url.URL
	key     Key
	http    *http.Client
	timeout time.Duration
}

type clientOptions struct {
	timeout   time.Duration
	transport http.RoundTripper
	plain     bool
}

// ClientOption configures a [Client].
type ClientOption func(*clientOptions)

// WithTimeout sets how long one request may take. Default 30 seconds.
func WithTimeout(timeout time.Duration) ClientOption {
	return func(o *clientOptions) { o.timeout = timeout }
}

// WithTransport sets what carries requests, for client certificates or a proxy. Default: [http.DefaultTransport].
func WithTransport(transport http.RoundTripper) ClientOption {
	return func(o *clientOptions) { o.transport = transport }
}

// WithPlainHTTP allows an http address beyond the loopback interface, where whoever is in between reads the payloads. For
// networks that encrypt by themselves, a service mesh for example.
func WithPlainHTTP() ClientOption {
	return func(o *clientOptions) { o.plain = true }
}

// NewClient returns a client of the handler at address, which comes from configuration and never from a message. It signs
// with key. Redirects are not followed. What is wrong is reported together, as errors that are [reliable.ErrInvalid].
func NewClient(address string, key Key, opts ...ClientOption) (*Client, error) {
	options := clientOptions{timeout: 30 * time.Second, transport: http.DefaultTransport}
	for _, opt := range opts {
		opt(&options)
	}
	target, err := parseAddress(address, options.plain)
	problems := []error{err, key.check()}
	if options.timeout <= 0 {
		problems = append(problems, reliable.Invalid("WithTimeout", "must be positive"))
	}
	if options.transport == nil {
		problems = append(problems, reliable.Invalid("WithTransport", "is nil; leave it out for the default"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return &Client{
		address: target, key: key, timeout: options.timeout,
		http: &http.Client{
			Transport:     options.transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func parseAddress(address string, plain bool) (*url.URL, error) {
	target, err := url.Parse(address)
	switch {
	case err != nil: // the error of net/url repeats the address, and with it what may be a password
		return nil, reliable.Invalid("address", "is not a URL; write it as https://host:port/path")
	case target.User != nil:
		return nil, reliable.Invalid("address", "holds a user name; requests are signed by a key instead")
	case target.Host == "" || target.RawQuery != "" || target.Fragment != "":
		return nil, reliable.Invalid("address", "must have a host, and neither query nor fragment; write it as https://host:port/path")
	case target.Scheme == "https", target.Scheme == "http" && (plain || loopback(target.Hostname())):
	case target.Scheme == "http":
		return nil, reliable.Invalid("address",
			"is http beyond the loopback interface, where payloads can be read; use https, or WithPlainHTTP if the network itself encrypts")
	default:
		return nil, reliable.Invalid("address", "must begin with https:// (or http:// on the loopback interface)")
	}
	if target.Path == "" {
		target.Path = "/"
	}
	return target, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Resend asks the handler. An error that is [reliable.ErrInvalid] means that the check can never be asked; any other, that
// there is no answer now and that whether a copy was sent is unknown.
func (c *Client) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	env, err := check.Envelope(check.Message.Topic)
	if err != nil {
		return delayedcheck.Unknowable, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// Both are in the signature; the nonce tells a repeated request from a replayed one.
	when, nonce := strconv.FormatInt(time.Now().Unix(), 10), rand.Text()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address.String(), bytes.NewReader(env.Payload))
	if err != nil {
		return delayedcheck.Unknowable, fmt.Errorf("ask for a resend: %w", err)
	}
	for name, value := range map[string]string{
		"Content-Type": "application/octet-stream", headerKey: c.key.ID, headerTime: when, headerNonce: nonce,
		headerSignature: c.key.sign(env.Payload, schemeRequest, request.Method, c.address.EscapedPath(), when, nonce),
	} {
		request.Header.Set(name, value)
	}
	reply, err := c.http.Do(request)
	if err != nil {
		return delayedcheck.Unknowable, fmt.Errorf("ask for a resend: %w", err)
	}
	answer, err := c.answer(reply, nonce)
	return answer, errors.Join(err, reply.Body.Close())
}

func (c *Client) answer(reply *http.Response, nonce string) (delayedcheck.Answer, error) {
	body, err := io.ReadAll(io.LimitReader(reply.Body, maxAnswerBytes))
	switch {
	case err != nil:
		return delayedcheck.Unknowable, fmt.Errorf("read the answer to a resend request: %w", err)
	case reply.StatusCode != http.StatusOK:
		return delayedcheck.Unknowable, fmt.Errorf("ask for a resend: %w", statusError(reply.StatusCode))
	case !c.key.signed(reply.Header.Get(headerSignature), body, schemeResponse, nonce):
		return delayedcheck.Unknowable, errUnsigned
	}
	var said response
	if err := json.Unmarshal(body, &said); err != nil {
		return delayedcheck.Unknowable, fmt.Errorf("read the answer to a resend request: %w", err)
	}
	for _, answer := range []delayedcheck.Answer{delayedcheck.Unknowable, delayedcheck.Resent, delayedcheck.Aborted, delayedcheck.StillOpen} {
		if said.Answer == answer.String() {
			return answer, nil
		}
	}
	return delayedcheck.Unknowable, fmt.Errorf("ask for a resend: the answer %.20q is not known; is the producer newer?", said.Answer)
}

// statusError says what to do about a refusal. It is no ErrInvalid: anybody in between can refuse.
func statusError(status int) error {
	hint := "see the producer's log"
	switch status {
	case http.StatusUnauthorized:
		hint = "compare the keys, the path and the clocks of both sides"
	case http.StatusNotFound:
		hint = "compare the address with where the producer mounts its handler"
	case http.StatusRequestEntityTooLarge:
		hint = "raise WithMaxBody of the producer's handler"
	case http.StatusServiceUnavailable:
		hint = "the producer is busy"
	}
	return fmt.Errorf("refused with %d %s; %s", status, http.StatusText(status), hint)
}
