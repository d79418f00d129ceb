"""Real processes in a lab of three hosts: what an operator does, and what goes wrong."""
