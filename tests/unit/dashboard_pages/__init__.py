"""What the pages show and do, on ports in memory."""
