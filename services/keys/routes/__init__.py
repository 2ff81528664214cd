"""The key service over HTTP: decode, ask the handlers, present. Nothing is decided here."""
