"""This process: as which of how many it was started, and what it prints while it works."""
