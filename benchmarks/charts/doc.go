// Charts draws what the benchmarks measured: it reads the lines of `go test -bench` in all files of a folder and writes
// an SVG file for each chart of which there are points. The same lines always give the same bytes. It is a module of its
// own, so that nobody else depends on a plotting library.
//
//	go run . -results ../results -out ../../docs/charts
package main
