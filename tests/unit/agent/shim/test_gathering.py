"""What is moved does what it did, from wherever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# In a process of its own: the functions are moved for good, and who does it must be alone.
MOVED = """
import sys
sys.path.insert(0, sys.argv[1])
from agent.shim import gathering

def plain(first, second="b", *, third="c"):
    return first + second + third

def never():
    return "never"

def failing():
    plain("a")
    raise ValueError("here")

class Sample:
    def __init__(self):
        self.value = plain("x")

    def method(self):
        return self.value * 2

    @staticmethod
    def fixed(number):
        return number + 1

    @property
    def shown(self):
        return f"<{self.value}>"

def run():
    sample = Sample()
    return plain("a"), plain("a", third="d"), sample.method(), Sample.fixed(1), sample.shown

kept, untouched = [plain], never.__code__
expected = run()
codes = gathering.called_by(run)
assert plain.__code__ in codes and never.__code__ not in codes
assert sys.getprofile() is None
gathering.gather(codes)
assert run() == expected and kept[0]("a") == plain("a")
assert plain is not kept[0] and plain.__code__ is kept[0].__code__
assert plain.__code__ not in codes
assert never.__code__ is untouched
for function in (plain, Sample.__init__, Sample.method, Sample.fixed, Sample.shown.fget):
    assert sys.getsizeof(function.__code__) > 512, function
gathering.gather([failing.__code__])
try:
    failing()
except ValueError as error:
    assert error.__traceback__.tb_next.tb_lineno == failing.__code__.co_firstlineno + 2
"""


def test_functions_that_were_moved_work_as_before() -> None:
    """Functions, methods, static methods and properties; defaults, and lines of a traceback."""
    root = Path(__file__).resolve().parents[4]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", MOVED, str(root)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
