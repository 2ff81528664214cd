"""An API that judges its callers' keys in its own process."""
