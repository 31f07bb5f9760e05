"""Solves of one system by plain operations, which autograd records: with norms, grids, stops and
callbacks of the user's."""
