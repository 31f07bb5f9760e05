"""A user's network, and how it is read."""
