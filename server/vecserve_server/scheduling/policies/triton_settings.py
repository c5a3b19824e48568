"""What a model's `dynamic_batching` means.

Owns the reading and checking of that message, as Triton does it. Must not know how batches form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vecserve.inference import model_config_pb2
from vecserve_server.domain.names import MODEL_CONFIG_FILE
from vecserve_server.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicySettings:
    """How the queue of a priority level treats what waits in it."""

    delays_expired: bool = False
    """What has waited too long is served after the others, not refused."""
    default_timeout_us: int = 0
    """0: however long."""
    allow_timeout_override: bool = False
    """A request may shorten the default timeout, where there is one."""
    max_queue_size: int = 0
    """Requests; 0: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonPolicySettings:
    """How the requests to one model are batched."""

    max_batch_size: int
    """Rows; a request of more runs alone."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """Rows, ascending; none: every request runs alone."""
    max_queue_delay_us: int = 0
    preserve_ordering: bool = False
    """Answers leave in the order in which their requests came; for the batcher to see to."""
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicySettings = field(default_factory=QueuePolicySettings)
    queue_policies: Mapping[int, QueuePolicySettings] = field(default_factory=dict)
    """Of the levels that have their own."""

    @property
    def max_preferred_batch_size(self) -> int:
        """The greatest preferred size; 0 without any."""
        return self.preferred_batch_sizes[-1] if self.preferred_batch_sizes else 0

    def level(self, priority: int) -> int:
        """Return the priority level of a request; 1 is served first."""
        return priority if 1 <= priority <= self.priority_levels else self.default_priority_level

    def queue_policy(self, level: int) -> QueuePolicySettings:
        """Return how the queue of a level is kept."""
        return self.queue_policies.get(level, self.default_queue_policy)


def triton_policy_settings(config: model_config_pb2.ModelConfig) -> TritonPolicySettings:
    """Fill in the defaults, check and return; raises `ModelError` naming the field.

    Without `dynamic_batching` every request runs alone. A policy for a priority level has no
    effect where there are no levels.
    """
    if config.max_batch_size < 0:
        raise _refused(config, "max_batch_size", "must not be negative")
    if not config.HasField("dynamic_batching"):
        return TritonPolicySettings(max_batch_size=config.max_batch_size)
    batching = config.dynamic_batching
    _check_levels(config)
    _check_ordering(config)
    policies = {
        level: _queue_policy(batching.priority_queue_policy[level])
        for level in batching.priority_queue_policy
        if batching.priority_levels
    }
    return TritonPolicySettings(
        max_batch_size=config.max_batch_size,
        preferred_batch_sizes=_preferred(config),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level if batching.priority_levels else 0,
        default_queue_policy=_queue_policy(batching.default_queue_policy),
        queue_policies=policies,
    )


def _preferred(config: model_config_pb2.ModelConfig) -> tuple[int, ...]:
    most = config.max_batch_size
    sizes = sorted(set(config.dynamic_batching.preferred_batch_size))
    if not sizes:
        return (most,) if most else ()
    for size in sizes:
        if not 1 <= size <= most:
            problem = f"must be 1 to max_batch_size, which is {most}; found {size}"
            raise _refused(config, "dynamic_batching.preferred_batch_size", problem)
    return tuple(sizes)


def _check_levels(config: model_config_pb2.ModelConfig) -> None:
    batching = config.dynamic_batching
    levels = batching.priority_levels
    if not levels:
        return
    if not 1 <= batching.default_priority_level <= levels:
        problem = (
            f"must be 1 to priority_levels, which is {levels}; "
            f"found {batching.default_priority_level}"
        )
        raise _refused(config, "dynamic_batching.default_priority_level", problem)
    for level in sorted(batching.priority_queue_policy):
        if not 1 <= level <= levels:
            problem = f"is for level {level}; there are 1 to {levels}"
            raise _refused(config, "dynamic_batching.priority_queue_policy", problem)


def _check_ordering(config: model_config_pb2.ModelConfig) -> None:
    batching = config.dynamic_batching
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        problem = f"allows one priority level; priority_levels is {batching.priority_levels}"
        raise _refused(config, "dynamic_batching.preserve_ordering", problem)
    for name, policy in _named_policies(batching):
        delays = policy.timeout_action == model_config_pb2.ModelQueuePolicy.DELAY
        if delays and policy.default_timeout_microseconds:
            problem = f"does not go with DELAY as the timeout_action of {name}"
            raise _refused(config, "dynamic_batching.preserve_ordering", problem)


def _named_policies(
    batching: model_config_pb2.ModelDynamicBatching,
) -> Iterator[tuple[str, model_config_pb2.ModelQueuePolicy]]:
    yield "default_queue_policy", batching.default_queue_policy
    for level in sorted(batching.priority_queue_policy):
        yield f"priority_queue_policy {level}", batching.priority_queue_policy[level]


def _queue_policy(policy: model_config_pb2.ModelQueuePolicy) -> QueuePolicySettings:
    return QueuePolicySettings(
        delays_expired=policy.timeout_action == model_config_pb2.ModelQueuePolicy.DELAY,
        default_timeout_us=policy.default_timeout_microseconds,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _refused(config: model_config_pb2.ModelConfig, name: str, problem: str) -> ModelError:
    return ModelError(f"{config.name or '(unnamed)'}/{MODEL_CONFIG_FILE}: {name} {problem}")
