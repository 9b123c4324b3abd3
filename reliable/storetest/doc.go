// Package storetest is the suite by which a store proves that it keeps what [reliable.Store] and the abilities promise.
// A store that passes it needs no other test of these semantics, only tests of what is its own: its SQL, its
// migrations, its errors.
//
// A test of an adapter describes the store in a [Harness] and hands it to [Run]:
//
//	func TestStore_conforms(t *testing.T) {
//		dsn := testenv.Postgres(t)
//		storetest.Run(t, storetest.Harness{
//			Open: func(t testing.TB) reliable.Store {
//				// A fresh, empty store; a table prefix of its own is enough, and faster than a database.
//			},
//			Reopen: func(t testing.TB, store reliable.Store) reliable.Store {
//				// A second handle on the same tables, as another process would open it.
//			},
//			Begin:  func(t testing.TB, store reliable.Store) storetest.Native { ... },
//			NotTx:  func(store reliable.Store) []any { return []any{db} },
//			Expect: []storetest.Ability{storetest.Transactions, storetest.Holds, storetest.Inspection},
//		})
//	}
//
// Each check is a subtest with a fresh store, named for the sentence that it proves. On a real clock the checks run
// several at a time and wait for leases of [Harness.Lease]; what must not happen is asked for well within a lease, and
// what must happen is waited for with a generous bound, so that a loaded machine slows the suite down and does not fail
// it.
//
// A store on virtual time runs each check in a bubble:
//
//	storetest.Run(t, storetest.Harness{Open: open, Bubble: synctest.Test})
//
// Abilities are found as [reliable.Ability] finds them. What a store lacks is logged, not tested, unless
// [Harness.Expect] lists it: then it fails.
//
// [Checks] returns the checks one by one, for a store that is known to be broken: the suite's own tests run them
// against such stores and demand that each is caught.
package storetest
