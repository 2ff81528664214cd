"""The key service: decides, records, publishes, proves secrets."""
