"""How fast, how much memory, and how near to what the machine can do: `python -m benchmarks --help`."""
