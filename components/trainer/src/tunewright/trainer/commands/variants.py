"""`trainer variants`."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def variants(as_json: bool) -> None:
    """List the installed training variants and their options."""
    from tunewright.contracts.plugins import PluginHost

    host = PluginHost.discover()
    found = [_describe(info, host.variants.owner_of(info.name)) for info in host.variants]
    for plugin in host.installed:
        if plugin.error:
            click.echo(f"plugin {plugin} is left out: {plugin.error}", err=True)
    click.echo(json.dumps(found, indent=2) if as_json else _text(found))


def _describe(info: Any, owner: str) -> dict[str, Any]:
    from tunewright.contracts.plugins import options_type_of
    from tunewright.contracts.spec import field_descriptions

    fields, words = options_type_of(info).model_fields, field_descriptions(options_type_of(info))
    options = {
        name: {"default": field.get_default(call_default_factory=True), "description": words.get(name, "")}
        for name, field in fields.items()
    }
    strategies = sorted(info.strategies)
    return {"name": info.name, "summary": info.summary, "plugin": owner, "strategies": strategies, "options": options}


def _text(found: list[dict[str, Any]]) -> str:
    lines: list[str] = []
    for variant in found:
        lines.append(f"{variant['name']:<10} {variant['summary']}  ({', '.join(variant['strategies'])})")
        lines += [f"    {name} = {json.dumps(option['default'])}" for name, option in variant["options"].items()]
    return "\n".join(lines) or "no variants are installed"
