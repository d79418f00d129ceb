"""The keys that leave a task's terminal, found in what is typed there."""

from __future__ import annotations

DEFAULT_KEYS = "ctrl-p,ctrl-q"
_CTRL = "ctrl-"


class DetachKeys:
    """Keys one after the other, like `ctrl-p,ctrl-q` or `ctrl-],x`. Raises ValueError for what is
    none. `pressed` once all were typed in a row."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._sequence = bytes(_key(word.strip()) for word in text.split(","))
        self._held = b""
        self.pressed = False

    def __str__(self) -> str:
        return " ".join(word.strip().title() for word in self._text.split(","))

    def feed(self, typed: bytes) -> bytes:
        """What of it goes on: a beginning of the sequence waits for the key after it."""
        passed = b""
        for key in typed:
            self._held += bytes([key])
            while self._held and not self._sequence.startswith(self._held):
                passed += self._held[:1]
                self._held = self._held[1:]
            if self._held == self._sequence:
                self.pressed = True
                break
        return passed


def _key(word: str) -> int:
    """`a` is itself, `ctrl-a` is 1 (ascii(7))."""
    letter = word.removeprefix(_CTRL)
    if len(letter) != 1 or not letter.isascii() or not letter.isprintable():
        raise ValueError(f'"{word}" is no key; write a letter or e.g. ctrl-p')
    if not word.startswith(_CTRL):
        return ord(letter)
    code = ord(letter.upper()) ^ 0x40
    if code >= 0x20:
        raise ValueError(f'"{word}" is no key; ctrl- goes with a letter or one of @ [ \\ ] ^ _')
    return code
