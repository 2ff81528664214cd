"""The key service without a server: its domain, its fold, its cursors and its views."""
