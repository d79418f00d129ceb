"""Fewest bins for vectors, by CP-SAT. A program of its own: OR-tools needs an older protobuf than
the rest, so it runs in another environment.

Reads a JSON list of {"bin": [amount, …], "items": [[amount, …], …]}; writes a JSON list of
[fewest bins, proven lower bound].
"""

from __future__ import annotations

import json
import sys

from ortools.sat.python import cp_model

SECONDS_MAX = 2.0


def fewest(room: list[int], items: list[list[int]], enough: int) -> tuple[int, int]:
    """`enough`: a number of bins that will do."""
    model = cp_model.CpModel()
    used = [model.new_bool_var(f"used{b}") for b in range(enough)]
    held = [[model.new_bool_var(f"item{i}in{b}") for b in range(enough)] for i in range(len(items))]
    for of_item in held:
        model.add_exactly_one(of_item)
    for b in range(enough):
        for at, limit in enumerate(room):
            load = sum(item[at] * held[i][b] for i, item in enumerate(items))
            model.add(load <= limit * used[b])
        if b:
            model.add_implication(used[b], used[b - 1])
    model.minimize(sum(used))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = SECONDS_MAX
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    status = solver.solve(model)
    bound = -(-int(solver.best_objective_bound * 1000) // 1000)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return round(solver.objective_value), bound
    return enough, bound


def main() -> None:
    instances = json.load(sys.stdin)
    json.dump([fewest(i["bin"], i["items"], i["enough"]) for i in instances], sys.stdout)


if __name__ == "__main__":
    main()
