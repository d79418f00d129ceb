"""Faults planted in the code that decides, each of which the simulation has to catch."""
