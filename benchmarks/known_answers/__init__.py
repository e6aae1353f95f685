"""Data whose answer is known, for tests and benchmarks, and what measures an answer against it."""
