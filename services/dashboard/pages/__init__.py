"""What a page shows, worked out before it is written: pure functions from records to words and figures."""
