"""What `dynamic_batching` means, and what of it is refused."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from vecserve.inference import model_config_pb2
from vecserve_server.errors import ModelError
from vecserve_server.scheduling.policies.triton_settings import (
    QueuePolicySettings,
    TritonPolicySettings,
    triton_policy_settings,
)


def read(text: str, *, most: int = 8) -> TritonPolicySettings:
    config = model_config_pb2.ModelConfig(name="m", max_batch_size=most)
    return triton_policy_settings(text_format.Parse(text, config))


def test_without_the_message_every_request_runs_alone() -> None:
    assert read("") == TritonPolicySettings(max_batch_size=8)


def test_an_empty_message_prefers_the_largest_batch() -> None:
    expected = TritonPolicySettings(max_batch_size=8, preferred_batch_sizes=(8,))
    assert read("dynamic_batching { }") == expected


def test_a_model_without_batches_has_no_preferred_size() -> None:
    assert read("dynamic_batching { }", most=0) == TritonPolicySettings(max_batch_size=0)


def test_every_field_is_read() -> None:
    found = read(
        """dynamic_batching {
          preferred_batch_size: [ 8, 4, 4 ]
          max_queue_delay_microseconds: 100
          priority_levels: 2
          default_priority_level: 1
          default_queue_policy {
            timeout_action: DELAY default_timeout_microseconds: 7
            allow_timeout_override: true max_queue_size: 3
          }
          priority_queue_policy { key: 2 value { default_timeout_microseconds: 9 } }
        }"""
    )
    assert found == TritonPolicySettings(
        max_batch_size=8,
        preferred_batch_sizes=(4, 8),
        max_queue_delay_us=100,
        priority_levels=2,
        default_priority_level=1,
        default_queue_policy=QueuePolicySettings(
            delays_expired=True,
            default_timeout_us=7,
            allow_timeout_override=True,
            max_queue_size=3,
        ),
        queue_policies={2: QueuePolicySettings(default_timeout_us=9)},
    )
    assert found.queue_policy(1) == found.default_queue_policy
    assert [found.level(priority) for priority in (0, 1, 2, 3)] == [1, 1, 2, 1]


def test_reading_leaves_the_message_as_it_is() -> None:
    config = model_config_pb2.ModelConfig(name="m", max_batch_size=8)
    config.dynamic_batching.priority_levels = 2
    config.dynamic_batching.default_priority_level = 1
    before = config.SerializeToString(deterministic=True)
    settings = triton_policy_settings(config)
    settings.queue_policy(2)
    assert config.SerializeToString(deterministic=True) == before


def test_order_is_preserved_with_one_level_and_refusals() -> None:
    found = read(
        "dynamic_batching { preserve_ordering: true priority_levels: 1 default_priority_level: 1 "
        "default_queue_policy { default_timeout_microseconds: 5 } }"
    )
    assert found.preserve_ordering


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ("preferred_batch_size: 9", "preferred_batch_size"),
        ("preferred_batch_size: [ 4, 0 ]", "preferred_batch_size"),
        ("preferred_batch_size: -1", "preferred_batch_size"),
        ("priority_levels: 2", "default_priority_level"),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level"),
        (
            "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 }",
            "priority_queue_policy",
        ),
        (
            "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 0 }",
            "priority_queue_policy",
        ),
        (
            "preserve_ordering: true priority_levels: 2 default_priority_level: 1",
            "preserve_ordering",
        ),
        (
            "preserve_ordering: true default_queue_policy "
            "{ timeout_action: DELAY default_timeout_microseconds: 5 }",
            "preserve_ordering does not go with DELAY .* default_queue_policy",
        ),
        (
            "preserve_ordering: true priority_levels: 1 default_priority_level: 1 "
            "priority_queue_policy { key: 1 value "
            "{ timeout_action: DELAY default_timeout_microseconds: 5 } }",
            "preserve_ordering does not go with DELAY .* priority_queue_policy 1",
        ),
    ],
)
def test_what_triton_refuses_is_refused_by_name(fields: str, named: str) -> None:
    with pytest.raises(ModelError, match=rf"^m/config\.pbtxt: dynamic_batching\.{named}\b"):
        read(f"dynamic_batching {{ {fields} }}")


def test_a_preferred_size_needs_a_model_with_batches() -> None:
    with pytest.raises(ModelError, match="preferred_batch_size"):
        read("dynamic_batching { preferred_batch_size: 1 }", most=0)


def test_a_negative_batch_size_is_refused() -> None:
    with pytest.raises(ModelError, match="max_batch_size must not be negative"):
        read("", most=-1)
