"""What tests share: servers, child processes, waiting with a deadline."""
