package pairs

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Meter tells what a stretch of a run costs: on a machine with other work, CPU times say more than rates. Those of the
// servers are of all servers of a kind on this machine, so they hold only what this run asks of them if nobody else does.
type Meter struct {
	began   time.Time
	process time.Duration
	servers map[string]time.Duration
}

// serverPrograms are the servers whose time is told.
var serverPrograms = []string{"mariadbd", "postgres", "beam.smp", "java"}

// StartMeter begins a stretch.
func StartMeter() Meter {
	m := Meter{began: time.Now(), servers: make(map[string]time.Duration)}
	for _, name := range serverPrograms {
		m.servers[name] = serverTime(name)
	}
	m.process = processTime()
	return m
}

// Log says what each of n messages cost since the meter was started.
func (m Meter) Log(b testing.TB, what string, n int) {
	b.Helper()
	per := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / float64(n) }
	var text strings.Builder
	text.WriteString(strconv.FormatFloat(per(processTime()-m.process), 'f', 1, 64) + " this process")
	for _, name := range serverPrograms {
		if used := serverTime(name) - m.servers[name]; used > time.Since(m.began)/50 {
			text.WriteString(", " + strconv.FormatFloat(per(used), 'f', 1, 64) + " " + name)
		}
	}
	b.Logf("%s: %.0f/s, CPU us per message: %s", what, float64(n)/time.Since(m.began).Seconds(), text.String())
}

func processTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// serverTime is the CPU time of all processes of a program and of their children that ended, 0 where there is no /proc.
func serverTime(program string) (used time.Duration) {
	const tick = 10 * time.Millisecond
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte("("+program+")")) {
			continue
		}
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, field := range fields[11:15] { // utime, stime, cutime, cstime
			ticks, _ := strconv.ParseInt(field, 10, 64)
			used += time.Duration(ticks) * tick
		}
	}
	return used
}
