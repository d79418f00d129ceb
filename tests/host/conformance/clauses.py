"""What each test stands for, and where runc is known to differ: the table of
docs/runtime-conformance.md is made from this (python -m tests.host.conformance.clauses)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

DOCUMENT = Path(__file__).parents[3] / "docs/runtime-conformance.md"
BEGIN, END = "<!-- table begin -->", "<!-- table end -->"
MODULES = ("test_runtime", "test_hooks", "test_config", "test_linux", "test_resources")
# Test: why runc (1.1.5, Debian 12) fails it. A difference that is gone fails the test.
_LATER = "added to the specification after runc 1.1, which ignores it"
RUNC_DIFFERS = {
    "test_version": "runc 1.1 does not look at ociVersion",
    "test_rlimits": "runc takes a limit that is given twice, the last one counts",
    "test_scheduler": _LATER,
    "test_io_priority": _LATER,
    "test_domainname": _LATER,
    "test_hooks_order_and_state": "runc 1.1 runs poststart at the end of create",
    "test_failing_start_container_hook": "runc's start does not wait for the hook",
    "test_failing_poststart_hook": "runc 1.1 runs poststart at the end of create, which fails",
    "test_joined_mount_namespace": "runc makes its root in the joined namespace and cannot pivot",
    "test_time_namespace": "runc 1.1 knows no time namespaces and refuses them",
    "test_device_in_the_way": "runc takes whatever file is there for the device",
    "test_personality": _LATER,
    "test_idmapped_mount": _LATER,
    "test_cpu_burst": _LATER,
    "test_cpu_idle": _LATER,
    "test_delete_of_a_created_one": "runc kills and deletes a container that was not started",
    "test_delete_keeps_what_was_there": "runc removes the cgroup whoever made it",
}

# The same, where it is so on cgroup v2 alone.
_V1_ONLY = "runc ignores what v2 has no file for"
RUNC_DIFFERS_ON_V2 = {
    "test_memory_behaviour": _V1_ONLY,
    "test_cpu_realtime": _V1_ONLY,
    "test_network_class": _V1_ONLY,
}

Test = TypeVar("Test", bound=Callable[..., Any])


def clause(where: str, text: str) -> Callable[[Test], Test]:
    """`where`: file and section of the specification; `text`: the clause in our words."""

    def mark(test: Test) -> Test:
        test.clause = (where, text)  # type: ignore[attr-defined]
        return test

    return mark


def tests() -> Iterator[tuple[str, str, str]]:
    """(where, text, test) of every test, in the order of the modules."""
    for name in MODULES:
        module = importlib.import_module(f"tests.host.conformance.{name}")
        for attribute, test in vars(module).items():
            if attribute.startswith("test_"):
                yield (*test.clause, attribute)


def table() -> str:
    """The table as Markdown."""
    lines = ["| Clause | What it asks | Test | native | runc |", "|---|---|---|---|---|"]
    for where, text, test in tests():
        runc = f"differs: {RUNC_DIFFERS[test]}" if test in RUNC_DIFFERS else "passes"
        if test in RUNC_DIFFERS_ON_V2:
            runc += f"; on v2 differs: {RUNC_DIFFERS_ON_V2[test]}"
        lines.append(f"| {where} | {text} | `{test}` | passes | {runc} |")
    return "\n".join(lines)


def write() -> None:
    """Put the table into the document, between its marks."""
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    write()
