package pairs

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Meter tells what a stretch of a run costs: on a machine with other work, CPU times say more than rates. Those of the
// servers are of all servers of a kind on this machine, so they hold only what this run asks of them if nobody else does.
type Meter struct {
	began          time.Time
	process        time.Duration
	servers        map[string]time.Duration
	bytes, objects uint64
}

// serverPrograms are the servers whose time is told.
var serverPrograms = []string{"mariadbd", "postgres", "beam.smp", "java"}

// StartMeter begins a stretch.
func StartMeter() Meter {
	m := Meter{servers: make(map[string]time.Duration)}
	for _, name := range serverPrograms {
		m.servers[name] = serverTime(name)
	}
	m.bytes, m.objects = allocated()
	m.process, m.began = processTime(), time.Now()
	return m
}

// Elapsed is the time since the meter was started.
func (m Meter) Elapsed() time.Duration { return time.Since(m.began) }

// Report tells what each of n messages allocated since the meter was started, as metrics of b.
func (m Meter) Report(b *testing.B, n int) {
	bytes, objects := m.Allocated(n)
	b.ReportMetric(bytes, "B/msg")
	b.ReportMetric(objects, "allocs/msg")
}

// Allocated is what each of n messages allocated since the meter was started.
func (m Meter) Allocated(n int) (bytes, objects float64) {
	b, o := allocated()
	return float64(b-m.bytes) / float64(n), float64(o-m.objects) / float64(n)
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

// allocated is what this process has allocated so far.
func allocated() (bytes, objects uint64) {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return memory.TotalAlloc, memory.Mallocs
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
