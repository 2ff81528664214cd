"""Counting uses and naming periods: pure, no clock, no driver."""
