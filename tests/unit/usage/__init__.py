"""The usage service without servers."""
