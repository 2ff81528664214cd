"""The real processes, as their users meet them."""
