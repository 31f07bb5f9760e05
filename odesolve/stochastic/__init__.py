"""Solvers of stochastic differential equations dy = f dt + g dW for any f and g: steps, fixed and
adaptive loops."""
