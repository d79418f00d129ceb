"""Replay one seed, telling what happens."""

import sys

from tests.simulation.scenario import run

if __name__ == "__main__":
    run(int(sys.argv[1]), talkative=True)
    print("holds")
