"""Tests without servers, by the package they are about."""
