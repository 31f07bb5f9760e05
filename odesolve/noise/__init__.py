"""Random numbers of each sample's own: streams, keys, Brownian paths and their areas."""
