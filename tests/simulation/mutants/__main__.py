"""`python -m tests.simulation.mutants [WORD]`: plants each mutant whose name has the word in a
process of its own, and plays seeds until one fails. Ends with 1 where one survives."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType

from tests.simulation.mutants.planted import MUTANTS, Mutant

ROOT = Path(__file__).parents[3]
SEEDS_MAX = 40
TIMEOUT_S = 300


def plant(mutant: Mutant) -> None:
    """From now on the file is imported with the fault in it."""
    path = ROOT / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.file} has not its line once"
    changed = compile(text.replace(mutant.old, mutant.new), str(path), "exec", dont_inherit=True)
    load = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, name: str) -> CodeType | None:
        return changed if self.get_filename(name) == str(path) else load(self, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def plays(kind: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Seeds of the kind that is likely, with the named scenarios among them."""
    from tests.simulation import scenario, test_scenarios, workloads

    run = scenario.run if kind == "services" else workloads.run
    named = [
        (name, play) for name, play in vars(test_scenarios).items() if name.startswith("test_")
    ]
    for seed in range(SEEDS_MAX):
        yield f"seed {seed} of {kind}", lambda seed=seed: run(seed)  # type: ignore[misc]
        if seed == 5:
            yield from named


def hunt(mutant: Mutant) -> str:
    """What caught it; empty: nothing."""
    plant(mutant)
    for name, play in plays(mutant.play):
        try:
            play()
        except Exception as error:  # noqa: BLE001 - whatever breaks has caught it
            return f"{name}: {str(error)[:120]}"
    return ""


def in_a_process_of_its_own(number: int) -> str:
    command = [sys.executable, "-m", "tests.simulation.mutants", "--hunt", str(number)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def main() -> None:
    match sys.argv[1:]:
        case ["--hunt", number]:
            print(hunt(MUTANTS[int(number)]))
        case words:
            survived = 0
            for number, mutant in enumerate(MUTANTS):
                if not all(word in mutant.name for word in words):
                    continue
                began = time.monotonic()
                caught = in_a_process_of_its_own(number)
                survived += not caught
                took = time.monotonic() - began
                print(f"{took:5.1f}s {mutant.name}: {caught or 'SURVIVES'}", flush=True)
            sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main()
