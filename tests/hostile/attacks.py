"""All that one client is known to have taken a server away from the others with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tests.hostile import (
    attack_cancels,
    attack_connections,
    attack_log,
    attack_memory,
    attack_models,
    attack_replies,
    attack_shared_memory,
    attack_store,
    attack_texts,
)
from tests.hostile.target import Target

Attack = Callable[[Target], None]

ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {
        f"{module.__name__.rpartition('.attack_')[2]}: {attack.__name__}": attack
        for module, attacks in (
            (
                attack_memory,
                (
                    attack_memory.zipped,
                    attack_memory.zipped_within_the_limit,
                    attack_memory.whole,
                    attack_memory.half_sent,
                    attack_memory.half_sent_on_streams,
                    attack_memory.empty_fields,
                    attack_memory.typed_numbers,
                ),
            ),
            (attack_replies, (attack_replies.unread,)),
            (attack_texts, (attack_texts.huge, attack_texts.middling, attack_texts.short_limit)),
            (
                attack_connections,
                (
                    attack_connections.half_scrapes,
                    attack_connections.silent,
                    attack_connections.watches,
                    attack_connections.idle_streams,
                    attack_connections.silent_calls,
                    attack_connections.patient_calls,
                ),
            ),
            (attack_store, (attack_store.checks, attack_store.snapshots, attack_store.filters)),
            (attack_store, (attack_store.collections,)),
            (
                attack_shared_memory,
                (attack_shared_memory.many_regions, attack_shared_memory.cut_objects),
            ),
            (
                attack_models,
                (
                    attack_models.endless,
                    attack_models.many_threads,
                    attack_models.invented_names,
                    attack_models.large_loads,
                ),
            ),
            (attack_log, (attack_log.forged_lines,)),
            (attack_cancels, (attack_cancels.every_kind,)),
        )
        for attack in attacks
    }
)
