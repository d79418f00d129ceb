"""Warnings and errors: on stderr, and in the log of the engine that called (--log)."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from agent.runtime.failure import RuntimeFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """`path` None: stderr only; `form` text or json, a line each, as engines read them."""

    path: Path | None = None
    form: str = "text"

    def warning(self, text: str) -> None:
        self._write("warning", text)

    def error(self, failure: Exception) -> None:
        self._write("error", _words(failure))

    def _write(self, level: str, text: str) -> None:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.form == "json":
            line = json.dumps({"level": level, "msg": text, "time": when})
        else:
            line = f"time={json.dumps(when)} level={level} msg={json.dumps(text)}"
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            line = f"{level}: {text}"
        sys.stderr.write((line if self.form == "json" else f"{level}: {text}") + "\n")


def _words(failure: Exception) -> str:
    """Engines tell a command that is missing (exit code 127) from one that cannot be run (126)
    by words of the message; those of execve(2) are among them."""
    text = str(failure)
    if isinstance(failure, RuntimeFailure) and failure.field == "process.args[0]":
        if "not found" in text or "missing" in text:
            return f"{text}: executable file not found in $PATH: no such file or directory"
        return f"{text}: permission denied"
    return text
