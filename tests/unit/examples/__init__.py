"""The example, in memory."""
