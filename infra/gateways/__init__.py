"""Gateways that ask a verifier: configurations that are run by the tests as they are."""
