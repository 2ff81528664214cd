"""A small API of contacts: any valid key may read, `contacts:write` may add."""
