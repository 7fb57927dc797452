package resource

// SetDefault sets *field where it is empty.
func SetDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// SetDefaultPtr points *field to value where it is nil.
func SetDefaultPtr[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
