"""The requests that a model answers before it is ready."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.engines.tiny_models import config
from vecserve_server.engines.warmup import WarmUp, read_warm_ups
from vecserve_server.errors import ModelError
from vecserve_server.model_files.tensor_spec import TensorSpec

TENSORS = """
name: "m" max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: -1 }
input { name: "s" data_type: TYPE_STRING dims: 1 reshape {} }
input { name: "k" data_type: TYPE_INT64 dims: 2 optional: true }
"""
X = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: 3 zero_data: true } }'
S = 'inputs { key: "s" value { data_type: TYPE_STRING dims: 1 random_data: true } }'
K = 'inputs { key: "k" value { data_type: TYPE_INT64 dims: 2 random_data: true } }'


def samples(text: str, folder: Path) -> list[WarmUp]:
    made = config(TENSORS + text)
    batched = made.max_batch_size > 0
    specs = {each.name: TensorSpec.read(each, batched=batched) for each in made.input}
    return list(read_warm_ups(made, folder, specs))


def sample(*inputs: str, more: str = "") -> str:
    return f'model_warmup {{ name: "first" {more} {" ".join(inputs)} }}'


def test_a_model_without_samples_is_not_warmed_up(tmp_path: Path) -> None:
    assert samples("", tmp_path) == []


def test_a_sample_is_a_batch_of_equal_rows_as_the_graph_takes_them(tmp_path: Path) -> None:
    (made,) = samples(sample(X, S, K, more="batch_size: 3 count: 5"), tmp_path)
    assert (made.name, made.count) == ("first", 5)
    np.testing.assert_array_equal(made.feeds["x"], np.zeros((3, 3), np.float32), strict=True)
    assert made.feeds["s"].tolist() == [b"", b"", b""]
    ids = made.feeds["k"]
    assert ids.shape == (3, 2)
    assert (ids == ids[0]).all()
    assert 0 <= ids.min() <= ids.max() <= 100


def test_a_sample_runs_once_on_one_row_unless_it_says_otherwise(tmp_path: Path) -> None:
    (made,) = samples(sample(X, S), tmp_path)
    assert made.count == 1
    assert {name: array.shape for name, array in made.feeds.items()} == {"x": (1, 3), "s": (1,)}


def test_without_batches_the_dims_are_the_whole_shape(tmp_path: Path) -> None:
    tensors = 'name: "m" max_batch_size: 0 input { name: "x" data_type: TYPE_FP32 dims: [2, 3] }'
    x = X.replace("dims: 3", "dims: [2, 3]").replace("zero", "random")
    made = config(tensors + sample(x))
    specs = {"x": TensorSpec.read(made.input[0], batched=False)}
    (warm_up,) = read_warm_ups(made, tmp_path, specs)
    array = warm_up.feeds["x"]
    assert array.shape == (2, 3)
    assert ((array >= 0) & (array < 1)).all()
    assert len(np.unique(array)) == 6


def test_data_comes_from_files_beside_the_versions(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.bin").write_bytes(np.arange(3, dtype="<f4").tobytes())
    (tmp_path / "warmup" / "s.bin").write_bytes(struct.pack("<I", 3) + b"abc")
    x = X.replace("zero_data: true", 'input_data_file: "x.bin"')
    s = S.replace("random_data: true", 'input_data_file: "s.bin"')
    (made,) = samples(sample(x, s, more="batch_size: 2"), tmp_path)
    assert made.feeds["x"].tolist() == [[0, 1, 2]] * 2
    assert made.feeds["s"].tolist() == [b"abc"] * 2


FILE = X.replace("zero_data: true", 'input_data_file: "x.bin"')
STRINGS = S.replace("random_data: true", 'input_data_file: "s.bin"')
WRONG = {
    "batch_size is 5; max_batch_size is 4": sample(X, S, more="batch_size: 5"),
    "count is over": sample(X, S, more="count: 100000"),
    "lacks the input s": sample(X),
    '"y" is not an input': sample(X, S, X.replace('"x"', '"y"')),
    'input "x" dims .* must be positive': sample(X.replace("dims: 3", "dims: -1"), S),
    "has the datatype INT64; the model takes FP32": sample(X.replace("FP32", "INT64"), S),
    "has the datatype BF16; the model takes FP32": sample(X.replace("FP32", "BF16"), S),
    "TYPE_INVALID is not supported": sample(X.replace("FP32", "INVALID"), S),
    "has the shape": sample(X.replace("dims: 3", "dims: [3, 1]"), S),
    "take more than": sample(X.replace("dims: 3", "dims: [1000000, 1000000]"), S),
    "warmup/x.bin holds 5 bytes, 12 are expected": sample(FILE, S),
    "must be a name within warmup/": sample(FILE.replace("x.bin", "../x.bin"), S),
    "warmup/other is not readable": sample(FILE.replace("x.bin", "other"), S),
    "ends inside a string": sample(X, STRINGS),
}


HUGE = X.replace("dims: 3", "dims: 4000000")
"""16 MB a row."""


@pytest.mark.parametrize(
    "text",
    [
        sample(HUGE, S, more="batch_size: 400"),
        sample(X, S, more="batch_size: 80000000"),
        sample(X, STRINGS, more="batch_size: 10000000"),
        sample(HUGE, HUGE.replace('"x"', '"y"'), S, more="batch_size: 12"),
    ],
)
def test_a_sample_whose_rows_are_too_large_together_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "s.bin").write_bytes(struct.pack("<I", 26) + b"z" * 26)
    tensors = TENSORS.replace("max_batch_size: 4", "max_batch_size: 80000000")
    made = config(f'{tensors} input {{ name: "y" data_type: TYPE_FP32 dims: -1 }} {text}')
    specs = {each.name: TensorSpec.read(each, batched=True) for each in made.input}
    with pytest.raises(ModelError, match=r"the 268435456 bytes .* make one of them smaller"):
        list(read_warm_ups(made, tmp_path, specs))


@pytest.mark.parametrize("problem", WRONG)
def test_a_wrong_sample_is_refused_by_its_name(tmp_path: Path, problem: str) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "x.bin").write_bytes(b"12345")
    (tmp_path / "warmup" / "s.bin").write_bytes(struct.pack("<I", 3) + b"ab")
    with pytest.raises(ModelError, match=problem) as caught:
        samples(WRONG[problem], tmp_path)
    assert str(caught.value).startswith('m/config.pbtxt: model_warmup[0] "first"')
