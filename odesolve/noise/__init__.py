"""Random numbers per sample: streams, keys, Brownian paths and their areas."""
