package main

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// deafServer looks like a NATS server and takes every message, but never answers for one. It says on published that it was
// handed one.
func deafServer(t *testing.T) (url string, published <-chan struct{}) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	handed := make(chan struct{}, 1)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { beDeaf(conn, handed) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait() // the commands have ended, and their connections with them
	})
	return "nats://" + l.Addr().String(), handed
}

func beDeaf(conn net.Conn, handed chan<- struct{}) {
	defer conn.Close()
	_, _ = conn.Write([]byte(`INFO {"server_id":"deaf","version":"2.12.0","proto":1,"headers":true,"max_payload":1048576,"jetstream":true}` + "\r\n"))
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		switch verb, _, _ := strings.Cut(lines.Text(), " "); verb {
		case "PING":
			_, _ = conn.Write([]byte("PONG\r\n"))
		case "HPUB", "PUB":
			select {
			case handed <- struct{}{}:
			default:
			}
		}
	}
}
