"""What a request leads to: sign-in, sessions, invitations."""
