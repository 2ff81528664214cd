"""What the dashboard decides by itself: who is signed in, for how long, and who may be invited. Pure."""
