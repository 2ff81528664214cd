"""What runs Keyledger on one machine or in a container, and what tests it there."""
