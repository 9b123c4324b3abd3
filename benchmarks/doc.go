// Package benchmarks measures Waybill against what the machine would allow.
//
// Every comparison has its yardstick in the same run: pairs of (yardstick, Waybill), interleaved, of which the median
// ratio is printed as `ratio <name> <value> (<what> / <yardstick>)`. Both sides have the same durability, payload, queue
// type and window. A run in which a message is lost fails.
//
// The benchmarks run on the test servers: `make bench` for those with a ratio, `make bench-full` for the long ones. The
// last lines of both are kept in results, with the machine that they were measured on.
package benchmarks
