"""`launcher schema`."""

from __future__ import annotations

from typing import Any

import click

from tunewright.contracts import experiment
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.spec import Spec, field_descriptions
from tunewright.launcher.commands.options import print_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Accepted as everywhere; the schema is JSON anyway.")
def schema(as_json: bool) -> None:
    """Print the JSON Schema of the experiment file, the installed plugins' options included."""
    print_json(experiment_schema(PluginHost.discover()))


def experiment_schema(host: PluginHost) -> dict[str, Any]:
    """The schema: each field with its description, each plugin's options under `$defs`."""
    document = ExperimentSpec.model_json_schema(by_alias=True, mode="validation")
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    definitions: dict[str, Any] = document.setdefault("$defs", {})
    _describe(document, ExperimentSpec)
    for name, definition in definitions.items():
        _describe(definition, getattr(experiment, name))
    for cluster in host.clusters:
        _define(definitions, f"cluster-options-{cluster.name}", cluster.options_type)
    for variant in host.variants:
        _define(definitions, f"training-options-{variant.name}", variant.options_type)
    return document


def _define(definitions: dict[str, Any], name: str, options_type: type[Spec]) -> None:
    # References count from the whole document: the options' own definitions must say that they lie deeper.
    schema = options_type.model_json_schema(by_alias=True, ref_template=f"#/$defs/{name}/$defs/{{model}}")
    _describe(schema, options_type)
    definitions[name] = schema


def _describe(document: dict[str, Any], spec_type: type[Spec]) -> None:
    """Put the string under each field into its property."""
    try:
        descriptions = field_descriptions(spec_type)
    except (OSError, TypeError):  # a plugin without its source
        return
    for name, description in descriptions.items():
        key = spec_type.model_fields[name].alias or name
        document.get("properties", {}).get(key, {})["description"] = description
