"""What answers depend on, as a SHA-256: the values, functions and code that decide them."""
