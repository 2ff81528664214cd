"""Servers of the rivals that the verifier is held against, each as its documentation recommends."""
