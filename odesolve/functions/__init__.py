"""Functions of users: how they are called, and what can be known of them from outside."""
