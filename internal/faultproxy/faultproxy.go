// Package faultproxy puts a TCP proxy between a client and a server under test, and breaks it on demand: connections cut,
// refused, stalled in one direction or both, slowed, or cut exactly when the client has said something of interest.
//
// What it promises: bytes are never changed or reordered, only delayed or lost as asked; a cut is a TCP reset, as when the
// machine at the other end is gone; and when the test ends, no connection and no goroutine of it is left.
package faultproxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Direction says which way bytes go.
type Direction uint8

// The directions. Both is for Stall.
const (
	Upstream   Direction = 1 << iota // from client to server
	Downstream                       // from server to client
	Both       = Upstream | Downstream
)

// Action is what becomes of bytes that a client sent, and of its connection.
type Action uint8

const (
	// Forward passes the bytes on.
	Forward Action = iota
	// CutBefore cuts the connection; the server never sees the bytes.
	CutBefore
	// CutAfter passes the bytes on and cuts the client's side at once. The server reads them and then the end of the
	// stream; it may still be at work on them when the client sees the reset.
	CutAfter
	// LoseAnswer passes the bytes on and cuts the connection when the server answers. So the server has done what it was
	// asked, and the client cannot know. It suits protocols in which a request waits for the answer to the one before.
	LoseAnswer
)

// chunkSize bounds what is read, and so what a hook sees, at once.
const chunkSize = 32 << 10

// Proxy forwards TCP connections to one server. All methods may be called at any time from any goroutine, and hold for
// the connections that are open as well as for later ones.
type Proxy struct {
	upstream string
	listener *net.TCPListener
	running  sync.WaitGroup

	mu      sync.Mutex
	faults  faults
	changed chan struct{} // closed and replaced whenever faults change
	conns   map[*conn]struct{}
}

// faults is what is wrong at this moment.
type faults struct {
	refuse  bool
	stalled Direction
	drop    bool
	latency time.Duration
	hook    func([]byte) Action
}

// New starts a proxy for the server at upstream, a host and port. The server need not be up. The proxy ends with the test.
func New(t testing.TB, upstream string) *Proxy {
	t.Helper()
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatalf("faultproxy: listen: %v", err)
	}
	p := &Proxy{upstream: upstream, listener: listener, changed: make(chan struct{}), conns: make(map[*conn]struct{})}
	p.running.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Addr is the host and port that clients connect to in place of the server's.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Connections counts the connections that are open.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

// CutAll resets every open connection. New ones are served, unless Refuse says otherwise.
func (p *Proxy) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.cut()
	}
}

// Refuse resets new connections as soon as they are made; the client sees it while it connects or soon after. Open ones
// stay: an outage is Refuse(true) and then CutAll, and so is, for clients, a server that is down.
func (p *Proxy) Refuse(on bool) { p.change(func(f *faults) { f.refuse = on }) }

// Stall stops forwarding in the given direction, or starts it again, and leaves connections open: the silence of a lost
// route. Nothing is lost; at most one chunk is held by the proxy, and beyond that the sender's own buffers fill up.
func (p *Proxy) Stall(direction Direction, on bool) {
	p.change(func(f *faults) {
		f.stalled &^= direction
		if on {
			f.stalled |= direction
		}
	})
}

// DropDownstream discards what servers send while it is on, so that requests are carried out and never answered. A
// connection that lived through it has a hole in its stream: cut it before turning this off.
func (p *Proxy) DropDownstream(on bool) { p.change(func(f *faults) { f.drop = on }) }

// SetLatency delays each chunk, in both directions, by d; 0 is none. Since the next chunk is read after that, it bounds
// the throughput of a connection to 32 KiB per d.
func (p *Proxy) SetLatency(d time.Duration) { p.change(func(f *faults) { f.latency = d }) }

// OnClientBytes has hook decide about everything that clients send; nil forwards it all. The hook sees what one read from
// the socket gave, which may be part of a message of the protocol or several; it must not keep the slice. It is called in
// order for each connection, and at the same time for different ones. It may call the proxy's methods, except Close.
func (p *Proxy) OnClientBytes(hook func(chunk []byte) Action) {
	p.change(func(f *faults) { f.hook = hook })
}

// Close cuts everything and waits until nothing of the proxy is left. It may be called again.
func (p *Proxy) Close() {
	_ = p.listener.Close() // the second Close finds it closed
	p.Refuse(true)         // one that was being accepted is not to be missed by the cut
	p.CutAll()
	p.running.Wait()
}

func (p *Proxy) change(edit func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	edit(&p.faults)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) current() (f faults, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults, p.changed
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.AcceptTCP()
		if err != nil {
			return // closed
		}
		c := newConn(client)
		if !p.enter(c) {
			c.cut()
			continue
		}
		p.running.Go(func() {
			defer p.leave(c)
			p.serve(c)
		})
	}
}

// enter makes c known to CutAll, even before the server is reached: Refuse and then CutAll leave nothing open. It says no
// when new connections are refused.
func (p *Proxy) enter(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.faults.refuse {
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) leave(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) serve(c *conn) {
	if !c.connect(p.upstream) {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { p.pump(c, Upstream, c.client, c.server) })
	pumps.Go(func() { p.pump(c, Downstream, c.server, c.client) })
	pumps.Wait()
	c.close()
}

// pump forwards one direction until its end, and passes that end on: a stream that was closed is closed, a reset one cut.
func (p *Proxy) pump(c *conn, direction Direction, from, to *net.TCPConn) {
	chunk := make([]byte, chunkSize)
	for {
		n, err := from.Read(chunk)
		if n > 0 && !p.deliver(c, direction, to, chunk[:n]) {
			return
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = to.CloseWrite() // if to is gone, its own pump says so
			return
		case err != nil:
			c.cut()
			return
		}
	}
}

// deliver applies what is wrong at this moment to one chunk and says whether the pump goes on.
func (p *Proxy) deliver(c *conn, direction Direction, to *net.TCPConn, chunk []byte) bool {
	f, alive := p.awaitPassage(c, direction)
	if !alive {
		return false
	}
	if direction == Downstream {
		switch c.fate() {
		case LoseAnswer:
			c.cut()
			return false
		case CutAfter:
			return true // nobody is left to read it, but the server must be read to its end
		default:
			return f.drop || c.write(to, chunk)
		}
	}

	action := Forward
	if f.hook != nil {
		action = f.hook(chunk)
	}
	if action == CutBefore {
		c.cut()
		return false
	}
	c.doom(action) // before the server can answer
	if !c.write(to, chunk) {
		return false
	}
	if action == CutAfter {
		reset(c.client)
		// A reset here could overtake the bytes inside the server's machine; the end of the stream comes after them.
		_ = c.server.CloseWrite()
		return false
	}
	return true
}

// awaitPassage waits out stalls and latency, unless the connection is cut meanwhile.
func (p *Proxy) awaitPassage(c *conn, direction Direction) (f faults, alive bool) {
	for {
		var changed <-chan struct{}
		f, changed = p.current()
		if f.stalled&direction == 0 {
			break
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return f, false
		}
	}
	if f.latency > 0 {
		timer := time.NewTimer(f.latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return f, false
		}
	}
	return f, true
}
