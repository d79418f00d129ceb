"""The whole cluster in virtual time, from one seed: real store core, real steps, real sessions,
real agent core; only containers, links, disks and clocks are played.

`python -m tests.simulation SEED` replays a seed and prints what happened.
"""
