package testenv

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"
)

const (
	rabbitmqVariable    = "WAYBILL_TEST_RABBITMQ"
	rabbitmqDefault     = "amqp://waybill:waybill@127.0.0.1:15720/"
	rabbitmqAPIVariable = "WAYBILL_TEST_RABBITMQ_API"
	rabbitmqAPIDefault  = "http://waybill:waybill@127.0.0.1:15721"
)

// RabbitMQ makes an empty virtual host on the test broker and returns its amqp:// URL. The virtual host is deleted when
// the test ends, with its queues, and the connections that the test has left open are closed by the broker.
func RabbitMQ(t testing.TB) string {
	t.Helper()
	own, err := url.Parse(setting(rabbitmqVariable, rabbitmqDefault))
	if err != nil {
		unreachable(t, "RabbitMQ", rabbitmqVariable, err)
	}
	api := RabbitMQAPI(t)
	name := uniqueName()
	if err := callRabbitMQ(api, http.MethodPut, "/api/vhosts/"+name, nil); err != nil {
		unreachable(t, "RabbitMQ", rabbitmqAPIVariable, err)
	}
	t.Cleanup(func() {
		if err := deleteVhost(api, name); err != nil {
			t.Errorf("testenv: delete virtual host: %v", err)
		}
	})
	everything := map[string]string{"configure": ".*", "write": ".*", "read": ".*"}
	permissions := "/api/permissions/" + name + "/" + url.PathEscape(own.User.Username())
	if err := callRabbitMQ(api, http.MethodPut, permissions, everything); err != nil {
		unreachable(t, "RabbitMQ", rabbitmqAPIVariable, err)
	}

	own.Path = "/" + name
	return own.String()
}

// RabbitMQAPI returns the base URL of the test broker's management HTTP API, with an administrator's account in it and
// no slash at its end. It does not ask whether the broker answers.
func RabbitMQAPI(t testing.TB) string {
	t.Helper()
	return setting(rabbitmqAPIVariable, rabbitmqAPIDefault)
}

// deleteVhost deletes a virtual host, and goes on until it is gone: RabbitMQ 3.10 deletes quorum queues while it still cuts
// their logs off, and now and then falls over a file that is gone (ra_log_segment_writer ends with enoent). Then the queues
// that are left are without a log (wal_down) until it has been started again, and the request fails.
func deleteVhost(api, name string) error {
	const pause = 100 * time.Millisecond
	for began := time.Now(); ; time.Sleep(pause) {
		err := callRabbitMQ(api, http.MethodDelete, "/api/vhosts/"+name, nil)
		var refused *refusal
		switch {
		case err == nil, errors.As(err, &refused) && refused.status == http.StatusNotFound:
			return nil
		case refused == nil || refused.status < http.StatusInternalServerError || time.Since(began) > patience:
			return err
		}
	}
}

// refusal is an answer of the management API that is not a success.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// callRabbitMQ makes one request to the management API and expects it to succeed.
func callRabbitMQ(api, method, path string, body any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, api+path, bytes.NewReader(content))
	if err != nil {
		return errors.New("the address of the management API is malformed") // err would repeat it, password included
	}
	// A connection kept for later would be a goroutine that outlives the test.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		reason, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return &refusal{response.StatusCode, fmt.Sprintf("%s %s: %s: %s", method, path, response.Status, reason)}
	}
	return nil
}
