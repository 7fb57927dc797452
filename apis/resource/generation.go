package resource

// NoGeneration is the GenerationOf of kinds with a status whose metadata.generation upstream leaves unset.
func NoGeneration[T Object](T) any { return nil }
