"""Replay one seed, telling what happens; `SEED workloads` for that of jobs, crons and daemons."""

import sys

from tests.simulation import scenario, workloads

if __name__ == "__main__":
    play = workloads.run if sys.argv[2:] == ["workloads"] else scenario.run
    play(int(sys.argv[1]), talkative=True)
    print("holds")
