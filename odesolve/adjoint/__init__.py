"""Gradients through solves: of the discrete steps, of the equation itself, and with constant memory
in the number of steps."""
