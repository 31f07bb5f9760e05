"""From a plan and a way to read a network to a program of calls and blocks over slots."""
