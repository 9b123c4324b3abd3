// Package brokertest is the conformance suite of broker adapters: it checks every sentence of [reliable.Publisher] and
// [reliable.ConfirmSource], and of the Watermill publisher that an adapter offers, against whatever broker a [Harness]
// connects to.
//
//	func TestConformance(t *testing.T) {
//		brokertest.Run(t, brokertest.Harness{
//			Open:     func(t brokertest.T, o brokertest.Options) brokertest.Connection { ... },
//			Topic:    func(t brokertest.T) string { ... },
//			Received: brokertest.ReceivedBy(func(t brokertest.T) message.Subscriber { ... }, 300*time.Millisecond),
//			Features: brokertest.Features{Order: true, Keys: true},
//		})
//	}
//
// [Features] says what the broker can do beyond the contract's core; the suite checks what is claimed and logs what is
// not. What it cannot check for want of a hook or a claim it does not report as passed: such a check is not in the list
// that [Harness.Checks] returns.
//
// The checks run one after the other, since some of them count goroutines. They are values over the small interface [T],
// so that the suite itself is tested: against broken publishers, under a T that records.
package brokertest
