"""What failures of calls are called on the command line."""

from __future__ import annotations

import pytest

from vecserve_server.cli.speech import spoken


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Search: options.k: is 5000; the limit is 1000", "-k: is 5000; the limit is 1000"),
        ("Search: options.filter.all_of.filters[3].field.range.lt: is x", "--where: is x"),
        ("Search: options.fusion.reciprocal_rank.lexical_weight: is 5", "--lexical-weight: is 5"),
        ("Classify: label_field: has 200 bytes", "--label-field: has 200 bytes"),
        ("CreateCollection: fields[3].name: 'a' comes twice", "--field: 'a' comes twice"),
        ("CreateCollection: name: 'b!' is not a name", "COLLECTION: 'b!' is not a name"),
        ("CreateSnapshot: name: 'b!' is not a name", "NAME: 'b!' is not a name"),
        ("SetAlias: alias.name: 'b!' is not a name", "ALIAS: 'b!' is not a name"),
        ("Get: with_text: the texts take more", "--no-text: the texts take more"),
        ("Search: internal error 42", "Search: internal error 42"),
        ("Search: the server is shutting down", "Search: the server is shutting down"),
    ],
)
def test_a_field_goes_by_its_flag(message: str, told: str) -> None:
    assert spoken(message) == told


def test_who_reaches_no_server_is_told_how_to_start_one() -> None:
    told = spoken("Count: failed to connect to all addresses; last error: UNKNOWN")
    assert told.endswith("`vecserve serve` starts a server, --server HOST:PORT names another")


def test_a_cure_is_told_once() -> None:
    told = spoken("Count: collection: 'x' does not exist")
    assert told.endswith("; `vecserve collections list` names those that there are")
    assert spoken(told) == told
