package natsbroker

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// pullWait is how long the server keeps a question for messages open.
	pullWait = 30 * time.Second
	// heartbeat is how often the server shows meanwhile that it remembers the question.
	heartbeat = 5 * time.Second
	// lull is how long nothing must come, after a subscription has ended, until nothing more is taken to be on its way.
	lull = 25 * time.Millisecond
	// farewell is how long the server may take to forget an inbox.
	farewell = time.Second
)

var (
	errReconnected = errors.New("the connection is a new one, the question for messages is forgotten")
	errForgotten   = errors.New("the server gives no sign that it remembers the question for messages")
	errNoConsumer  = errors.New("the consumer is gone")
)

// puller asks for the messages of a consumer, one question at a time. The client's own fetch throws away what is on its
// way when its context ends, which would come again only after the ack wait; this one can give it back. A puller whose
// question did not end well is closed, so that a late answer is taken for no other question's.
type puller struct {
	nc       *nats.Conn
	subject  string // where the consumer is asked
	inbox    string
	sub      *nats.Subscription
	arrivals chan *nats.Msg
}

func newPuller(nc *nats.Conn, subject string, prefetch int) (*puller, error) {
	p := &puller{nc: nc, subject: subject, inbox: nc.NewInbox(), arrivals: make(chan *nats.Msg, prefetch+64)}
	var err error
	p.sub, err = nc.ChanSubscribe(p.inbox, p.arrivals)
	return p, err
}

// pull asks for up to limit messages and passes each on to take, until they are there or the question is over. Once
// done is closed it takes what is on its way, and returns. It returns how many came.
func (p *puller) pull(limit int, done, again <-chan struct{}, take func(*nats.Msg)) (got int, err error) {
	question, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{limit, pullWait, heartbeat})
	if err != nil {
		return 0, err
	}
	connection := p.nc.Stats().Reconnects
	if err := p.nc.PublishRequest(p.subject, p.inbox, question); err != nil {
		return 0, err
	}
	patience := 2 * heartbeat
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for got < limit {
		select {
		case msg := <-p.arrivals:
			timer.Reset(patience)
			switch over, err := isEnd(msg); {
			case err != nil || over:
				return got, err
			case !isStatus(msg):
				got++
				take(msg)
			}
		case <-again:
			if p.nc.Stats().Reconnects != connection { // else the note is older than the question
				return got, errReconnected
			}
		case <-done:
			done, patience = nil, lull
			timer.Reset(patience)
		case <-timer.C:
			if done == nil {
				return got, nil
			}
			return got, errForgotten
		}
	}
	return got, nil
}

// close ends the inbox and gives back what has come to it and was not taken. It waits until the server has answered that it
// will send nothing more there: what a client gets for an inbox that it has forgotten is dropped, and counts as delivered
// until the ack wait.
func (p *puller) close() {
	gone := make(chan struct{})
	p.sub.SetClosedHandler(func(string) { close(gone) })
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	if p.sub.Drain() != nil { // it ends with the connection otherwise
		timer.Reset(0)
	}
	var left []*nats.Msg
	for waiting := true; waiting; {
		select {
		case msg := <-p.arrivals:
			left = append(left, msg)
		case <-gone:
			waiting = false
		case <-timer.C:
			waiting = false
		}
	}
	for len(p.arrivals) > 0 {
		left = append(left, <-p.arrivals)
	}
	for _, msg := range left {
		if !isStatus(msg) {
			nak(p.nc, msg, 0)
		}
	}
}

// isStatus tells what the server says of a question from a message of the stream.
func isStatus(msg *nats.Msg) bool { return len(msg.Data) == 0 && msg.Header.Get("Status") != "" }

// isEnd reports whether a status ends its question, and whether that is an error. NATS' decision record 37 lists them.
func isEnd(msg *nats.Msg) (over bool, err error) {
	if !isStatus(msg) {
		return false, nil
	}
	switch status, text := msg.Header.Get("Status"), msg.Header.Get("Description"); status {
	case "100": // heartbeat
		return false, nil
	case "404", "408": // nothing there, or the time is over
		return true, nil
	case "503": // nobody listens where the consumer is asked
		return true, errNoConsumer
	case "409":
		switch text {
		case "Consumer Deleted":
			return true, errNoConsumer
		case "Server Shutdown":
			// It still answers the question until the connection is gone. What is answered to a closed inbox is taken for
			// delivered, and comes again only after the ack wait.
			return false, nil
		}
		return true, errors.New(text)
	default:
		return true, fmt.Errorf("status %s: %s", status, text)
	}
}

// What a consumer is told of a message, at the message's reply subject. It reaches the server on whatever connection
// the client has by then; a message whose answer is lost is delivered again.

func ack(nc *nats.Conn, msg *nats.Msg) { _ = nc.Publish(msg.Reply, []byte("+ACK")) }

func nak(nc *nats.Conn, msg *nats.Msg, delay time.Duration) {
	answer := "-NAK"
	if delay > 0 {
		answer += ` {"delay": ` + strconv.FormatInt(delay.Nanoseconds(), 10) + `}`
	}
	_ = nc.Publish(msg.Reply, []byte(answer))
}

func inProgress(nc *nats.Conn, msg *nats.Msg) { _ = nc.Publish(msg.Reply, []byte("+WPI")) }
