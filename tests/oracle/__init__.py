"""Optima of small instances, from a solver in an environment of its own."""
