"""Which part of the method does what: one question at a time, every option against the benchmark's own setting."""
