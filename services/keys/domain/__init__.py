"""What a key and a workspace may do, and become: pure decisions over the wire events."""
