"""docs/runtime-conformance.md says what the tests are."""

from __future__ import annotations

from tests.host.conformance import clauses


def test_the_table_is_the_tests() -> None:
    """Made anew by `python -m tests.host.conformance.clauses`."""
    document = clauses.DOCUMENT.read_text()
    written = document.partition(clauses.BEGIN)[2].partition(clauses.END)[0]
    assert written.strip() == clauses.table()


def test_differences_are_of_tests() -> None:
    """No explanation is left of a test that is gone."""
    explained = {*clauses.RUNC_DIFFERS, *clauses.RUNC_DIFFERS_ON_V2}
    assert explained <= {test for _, _, test in clauses.tests()}
