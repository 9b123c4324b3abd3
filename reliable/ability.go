package reliable

// Wrapper is implemented by what wraps a store, publisher or scheduler, so that the abilities of the wrapped one stay
// reachable through it.
type Wrapper interface {
	// Unwrap returns the wrapped value.
	Unwrap() any
}

// Ability looks for an optional ability: it returns the first value in the chain of v and what it wraps that implements
// T, as errors.As does for errors.
//
//	holder, ok := reliable.Ability[reliable.Holder](store)
func Ability[T any](v any) (T, bool) {
	for v != nil {
		if found, ok := v.(T); ok {
			return found, true
		}
		wrapper, ok := v.(Wrapper)
		if !ok {
			break
		}
		v = wrapper.Unwrap()
	}
	var none T
	return none, false
}
