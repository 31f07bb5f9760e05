"""Checks of what users give, before anything is done with it: calls, words and values; and what
they get back, in a line."""
