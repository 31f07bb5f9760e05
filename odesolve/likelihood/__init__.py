"""Log-densities: of the probability flow, of the sampler that runs, bounds of them, and what they
mean for discrete data."""
