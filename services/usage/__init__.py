"""The usage service: folds recorded uses into counters that people can read."""
