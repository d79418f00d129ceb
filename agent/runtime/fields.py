"""Strict reading of JSON: every value knows its path, every error names it."""

from __future__ import annotations

from collections.abc import Iterator

from agent.runtime.failure import RuntimeFailure

_NAMES = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number"}


class Field:
    """A JSON value with its path (`process.args[0]`). Reading it as the wrong type raises."""

    __slots__ = ("path", "value")

    def __init__(self, value: object, path: str) -> None:
        self.value = value
        self.path = path

    def fail(self, message: str) -> RuntimeFailure:
        return RuntimeFailure(message, self.path or "config.json")

    def get(self, key: str) -> Field:
        """The member `key`; one that is missing or null reads as the default of its type."""
        return Field(self.object().get(key), f"{self.path}.{key}" if self.path else key)

    @property
    def present(self) -> bool:
        return self.value is not None

    def object(self) -> dict[str, object]:
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self._wrong(dict)
        return self.value

    def items(self) -> Iterator[Field]:
        """The members of a list."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            raise self._wrong(list)
        for index, member in enumerate(self.value):
            yield Field(member, f"{self.path}[{index}]")

    def members(self) -> Iterator[tuple[str, Field]]:
        """The members of an object."""
        for key in self.object():
            yield key, self.get(key)

    def text(self, default: str = "") -> str:
        if self.value is None:
            return default
        if not isinstance(self.value, str):
            raise self._wrong(str)
        if "\0" in self.value:
            raise self.fail("contains a zero byte")
        return self.value

    def required_text(self) -> str:
        text = self.text()
        if not text:
            raise self.fail("is required")
        return text

    def absolute_path(self) -> str:
        text = self.required_text()
        if not text.startswith("/"):
            raise self.fail(f'"{text}" is not an absolute path')
        return text

    def choice(self, *choices: str, default: str = "") -> str:
        text = self.text(default)
        if text != default and text not in choices:
            raise self.fail(f'"{text}" is not one of {", ".join(choices)}')
        return text

    def flag(self, default: bool = False) -> bool:
        if self.value is None:
            return default
        if not isinstance(self.value, bool):
            raise self._wrong(bool)
        return self.value

    def number(self, default: int = 0, *, low: int = -(2**63), high: int = 2**64 - 1) -> int:
        number = self.optional_number(low=low, high=high)
        return default if number is None else number

    def optional_number(self, *, low: int = -(2**63), high: int = 2**64 - 1) -> int | None:
        if self.value is None:
            return None
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._wrong(int)
        if not low <= self.value <= high:
            raise self.fail(f"{self.value} is not between {low} and {high}")
        return self.value

    def texts(self) -> tuple[str, ...]:
        return tuple(member.text() for member in self.items())

    def mapping(self) -> dict[str, str]:
        return {key: member.text() for key, member in self.members()}

    def _wrong(self, wanted: type) -> RuntimeFailure:
        found = _NAMES.get(type(self.value), type(self.value).__name__)
        return self.fail(f"must be {_NAMES[wanted]}, not {found}")
