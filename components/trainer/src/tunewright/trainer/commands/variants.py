"""`trainer variants`."""

from __future__ import annotations

import json

import click

from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.spec import field_descriptions


@click.command()
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")
def variants(as_json: bool) -> None:
    """List the installed training variants and their options."""
    found = [
        {
            "name": info.name,
            "summary": info.summary,
            "strategies": sorted(info.strategies),
            "options": field_descriptions(info.options_type),
        }
        for info in PluginHost.discover().variants
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for variant, descriptions in ((one, dict[str, str](one["options"])) for one in found):
        click.echo(f"{variant['name']}  {variant['summary']}")
        for name, description in descriptions.items():
            click.echo(f"    {name}: {description.splitlines()[0]}")
