"""Which exception stands for which status."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vecserve_client.errors import KINDS, ServerError, VecserveError, from_number


def test_the_table_is_total_over_failures() -> None:
    assert set(KINDS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


def test_every_kind_of_failure_stands_for_a_status() -> None:
    assert set(VecserveError.__subclasses__()) == set(KINDS.values())


@pytest.mark.parametrize("code", list(KINDS))
def test_a_number_makes_the_same_kind_as_its_status(code: grpc.StatusCode) -> None:
    error = from_number(code.value[0], "ids: too many", method="Get")
    assert type(error) is KINDS[code]
    assert str(error) == "Get: ids: too many"


@given(st.integers().filter(lambda number: not 1 <= number <= 16))
def test_a_number_that_means_nothing_is_the_servers_fault(number: int) -> None:
    assert type(from_number(number, "x", method="Get")) is ServerError
