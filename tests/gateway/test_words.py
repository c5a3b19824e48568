"""What clients of Triton read, of failures that know nothing of it."""

from __future__ import annotations

import pytest

from vecserve_server.domain.models import ModelState
from vecserve_server.errors import (
    CapacityError,
    FieldPath,
    InvalidArgument,
    ModelUnavailable,
    NotFound,
    UnknownModel,
)
from vecserve_server.gateway.kserve.words import STATES, field_name, not_available, reworded


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (("inputs", "text"), "input 'text'"),
        (("inputs", "text", 3), "input 'text'[3]"),
        (("inputs",), "inputs"),
        (("config",), "parameters[config]"),
        (("files",), "parameters"),
        (("files", "1/model.onnx"), "parameters['file:1/model.onnx']"),
        (("model_version",), "model_version"),
        (("output 'y'",), "output 'y'"),
    ],
)
def test_a_path_is_spelled_as_the_protocol_names_things(path: FieldPath, words: str) -> None:
    error = reworded(InvalidArgument(path, "is wrong"))
    assert field_name(path) == words
    assert (type(error), str(error)) == (InvalidArgument, f"{words}: is wrong")


def test_a_model_that_nobody_knows_is_told_as_triton_does() -> None:
    error = reworded(UnknownModel("m", "version 3 is not found"))
    assert isinstance(error, NotFound)
    assert str(error) == "Request for unknown model: 'm' version 3 is not found"


@pytest.mark.parametrize("state", ModelState)
def test_a_version_that_does_not_serve_is_told_with_its_state(state: ModelState) -> None:
    error = reworded(ModelUnavailable("m", "3", state.value))
    assert isinstance(error, CapacityError)
    assert str(error) == (
        f"Request for unknown model: 'm' version 3 is not at ready state: it is {STATES[state]}"
    )


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("name", "name: requested model 'm' is not available"),
        ("version", "version: requested model version is not available for model 'm'"),
    ],
)
def test_statistics_of_what_does_not_serve_are_not_available(part: str, words: str) -> None:
    assert str(not_available(InvalidArgument(part, "does not serve"), "m")) == words
