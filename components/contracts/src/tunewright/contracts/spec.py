"""The base of everything that is written to a file: frozen, typed, unknown keys refused."""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen value with named, typed fields. A key it does not know is an error."""

    # Built at first use: `--help` and `plan` must not pay for the types they do not touch.
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, defer_build=True)

    def to_document(self) -> dict[str, Any]:
        """This value as plain JSON types, every default filled in, keys as users write them."""
        return self.model_dump(mode="json", by_alias=True)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare white space: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Mapping[str, Any] | list[Any]) -> str:
    """SHA-256 (64 hexadecimal digits) of `value` as canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def field_descriptions(spec_type: type[Spec]) -> dict[str, str]:
    """The string under each field of `spec_type`, inherited ones included, by the field's name.

    Read from the source when it is asked for: pydantic's own `use_attribute_docstrings` reads it at every import.
    """
    classes = list(itertools.takewhile(lambda one: one not in (Spec, object), spec_type.__mro__))
    return {name: text for one in reversed(classes) for name, text in _own_field_descriptions(one).items()}


def _own_field_descriptions(spec_type: type) -> dict[str, str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(spec_type)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
