"""Log-densities of the probability flow and of the sampler itself, bounds of them, and their
meaning for discrete data."""
