"""Gradients through solves: of the steps that were made, of the equation itself, and in memory that
no step adds to."""
