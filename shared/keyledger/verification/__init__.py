"""The heart: a projection of every key, and the verdict on a presented token."""
