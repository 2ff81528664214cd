"""The unit that times are in: µs since the Unix epoch, as everywhere in Keyledger."""

SECOND = 1_000_000
