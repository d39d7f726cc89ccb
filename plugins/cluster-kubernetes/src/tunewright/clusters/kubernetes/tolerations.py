"""Taints a pod puts up with, from one line of text each. Pure."""

from __future__ import annotations

import re

from tunewright.clusters.kubernetes.names import LABEL_KEY, LABEL_VALUE

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def parse_toleration(text: str) -> dict[str, object]:
    """`KEY`, `KEY=VALUE`, `KEY:EFFECT` or `KEY=VALUE:EFFECT`. Raises ValueError saying what is wrong with it."""
    taint, colon, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    if colon and effect not in EFFECTS:
        raise ValueError(f"the effect must be one of {', '.join(EFFECTS)}, got {effect!r}")
    if not re.fullmatch(LABEL_KEY[1:-1], key) or not re.fullmatch(LABEL_VALUE[1:-1], value):
        raise ValueError(f"must be KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT, got {text!r}")
    toleration: dict[str, object] = {"key": key, "operator": "Equal" if equals else "Exists"}
    if equals:
        toleration["value"] = value
    if colon:
        toleration["effect"] = effect
    return toleration


def when_a_node_is_lost(seconds: int) -> list[dict[str, object]]:
    """How long pods stay bound to a node that nobody hears from."""
    keys = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
    return [{"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds} for key in keys]
