"""`ask` writes the instances for bins.py; `check` and `record` read what it found, and hold it
against optima.json or write that file. `make test-oracle` and `make optima` put them together."""

from __future__ import annotations

import json
import sys

from tests.oracle.instances import BIN, SEEDS, instance, packed
from tests.oracle.optima import OPTIMA, Optimum, recorded


def ask() -> None:
    asked = [instance(seed) for seed in SEEDS]
    json.dump(
        [{"bin": BIN, "items": items, "enough": packed(items)} for items in asked], sys.stdout
    )


def check(found: list[Optimum]) -> None:
    """A solver that had less time may find more bins and prove less, but not contradict."""
    for seed, (known, (fewest, bound)) in enumerate(zip(recorded(), found, strict=True)):
        if not bound <= known[0] <= fewest or known[1] > fewest:
            sys.exit(f"instance {seed}: recorded {known}, found {(fewest, bound)}: make optima")
    print(f"{len(found)} optima are as recorded")


def main() -> None:
    match sys.argv[1:]:
        case ["ask"]:
            ask()
        case ["check"]:
            check([(int(fewest), int(bound)) for fewest, bound in json.load(sys.stdin)])
        case ["record"]:
            rows = ",\n".join(f"  {json.dumps(pair)}" for pair in json.load(sys.stdin))
            OPTIMA.write_text(f"[\n{rows}\n]\n")
        case _:
            sys.exit("say ask, check or record")


if __name__ == "__main__":
    main()
