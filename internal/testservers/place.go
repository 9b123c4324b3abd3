//go:build linux

package testservers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports of servers lie below 32768, where Linux begins to give ports to outgoing connections: a server that is down for a
// while would otherwise find its port taken. The first that is free is used, so that the place of a test that was killed
// is soon used again, and with it the disk space that it left behind.
const (
	firstPort = 20000
	lastPort  = 20999
)

// place is where a server lives: a directory and some ports that no other test process uses.
type place struct {
	dir   string // named for the first port
	ports []int
}

// newPlace reserves a place until the test ends.
func newPlace(t T, ports int) *place {
	t.Helper()
	root := filepath.Join(os.TempDir(), "waybill-testservers-"+strconv.Itoa(os.Geteuid()))
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatalf("testservers: %v", err)
	}
	p := &place{}
	for range ports {
		p.ports = append(p.ports, reservePort(t, root))
	}
	p.dir = filepath.Join(root, strconv.Itoa(p.ports[0]))
	if err := errors.Join(os.RemoveAll(p.dir), os.Mkdir(p.dir, 0o755)); err != nil {
		t.Fatalf("testservers: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(p.dir); err != nil {
			t.Errorf("testservers: %v", err)
		}
	})
	return p
}

// reservePort finds a port that nobody listens on and no other test has reserved. The reservation is a lock on a file: the
// kernel gives it up when this process ends, however it ends.
func reservePort(t T, root string) int {
	t.Helper()
	for port := firstPort; port <= lastPort; port++ {
		file, err := os.OpenFile(filepath.Join(root, fmt.Sprintf("%d.lock", port)), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			t.Fatalf("testservers: %v", err)
		}
		if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil || !free(port) {
			file.Close()
			continue
		}
		t.Cleanup(func() { file.Close() })
		return port
	}
	t.Fatalf("testservers: no port is free between %d and %d", firstPort, lastPort)
	return 0
}

func free(port int) bool {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return false
	}
	return listener.Close() == nil
}
