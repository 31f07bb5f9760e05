"""From names of solvers and grids to plans."""
