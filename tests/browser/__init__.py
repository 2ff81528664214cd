"""People at the pages: a real browser, a real OpenID provider, the whole system."""
