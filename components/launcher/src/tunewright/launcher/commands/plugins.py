"""`launcher plugins`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from tunewright.contracts.clusters import ClusterInfo
from tunewright.contracts.plugins import PluginHost, options_type_of
from tunewright.contracts.spec import Spec, field_descriptions
from tunewright.contracts.variants import VariantInfo
from tunewright.launcher.commands.options import as_json, print_json
from tunewright.launcher.user_config import config_lines, describe_config


@click.command()
@as_json
def plugins(as_json: bool) -> None:
    """List what is installed: plugins, clusters, variants, with their options; broken ones with the cause."""
    document = installed(PluginHost.discover())
    if as_json:
        print_json(document)
        return
    for plugin in document["plugins"]:
        click.echo(f"{plugin['name']}  {plugin['distribution']} {plugin['version']}  {plugin['module']}")
        click.echo(f"    BROKEN: {plugin['error']}" if plugin["error"] else f"    {', '.join(plugin['hooks'])}")
    for kind in ("clusters", "variants"):
        click.echo(f"\n{kind}")
        for entry in document[kind]:
            click.echo(f"  {entry['name']}  {entry['summary']}")
            for key in ("capabilities", "strategies"):
                if entry.get(key):
                    click.echo(f"      {key}: {', '.join(entry[key])}")
            for option in entry["options"]:
                value = "(required)" if option["required"] else json.dumps(option["default"], ensure_ascii=False)
                click.echo(f"      {option['name']} = {value}  {option['description']}")
    click.echo()
    for line in config_lines(document["configuration"]):
        click.echo(line)


def installed(host: PluginHost) -> dict[str, Any]:
    """Everything that was found."""
    return {
        "plugins": [asdict(plugin) for plugin in host.installed],
        "clusters": [_cluster(info) for info in host.clusters],
        "variants": [_variant(info) for info in host.variants],
        "configuration": describe_config(host),
    }


def _cluster(info: ClusterInfo) -> dict[str, Any]:
    capabilities = sorted(capability.value for capability in info.capabilities)
    options = _options(options_type_of(info))
    return {"name": info.name, "summary": info.summary, "capabilities": capabilities, "options": options}


def _variant(info: VariantInfo) -> dict[str, Any]:
    strategies, options = sorted(info.strategies), _options(options_type_of(info))
    return {"name": info.name, "summary": info.summary, "strategies": strategies, "options": options}


def _options(options_type: type[Spec]) -> list[dict[str, Any]]:
    descriptions = _descriptions(options_type)
    return [
        {
            "name": field.alias or name,
            "default": _default(field),
            "required": field.is_required(),
            "description": descriptions.get(name, "").split("\n")[0],
        }
        for name, field in options_type.model_fields.items()
    ]


def _default(field: FieldInfo) -> Any:
    """The default in plain JSON types, or None where there is none."""
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    return TypeAdapter(Any).dump_python(value, mode="json", fallback=str)


def _descriptions(options_type: type[Spec]) -> dict[str, str]:
    try:
        return field_descriptions(options_type)
    except (OSError, TypeError):  # a plugin without its source
        return {}
