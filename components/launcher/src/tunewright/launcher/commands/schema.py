"""`launcher schema`."""

from __future__ import annotations

import json
from typing import Any

import click

from tunewright.contracts import experiment
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.plugins import PluginHost, options_type_of
from tunewright.contracts.spec import Spec, field_descriptions
from tunewright.contracts.stages import AFTER_KEY, OVERLAY_KEYS, STAGES_KEY
from tunewright.launcher.commands.options import print_json

STAGES = "Runs one after another, each with the model of the one before. A stage is the file with its tables on top."
STAGE_AFTER = "The earlier stages that it starts after, instead of the one before it. Its model is the first one's."
STAGE_NAME = "Unique in the file; the stage's run is named after it."


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
    _add_stages(document)
    for cluster in host.clusters:
        _define(definitions, f"cluster-options-{cluster.name}", options_type_of(cluster))
    for variant in host.variants:
        _define(definitions, f"training-options-{variant.name}", options_type_of(variant))
    return document


def _add_stages(document: dict[str, Any]) -> None:
    """`stages`: what an experiment may have, nothing of it needed: the rest comes from the file's own tables."""
    definitions = document["$defs"]
    properties: dict[str, Any] = {"name": {**document["properties"]["name"], "description": STAGE_NAME}}
    for key in OVERLAY_KEYS:
        given = json.dumps(document["properties"][key])
        for name, definition in list(definitions.items()):
            reference = f'"#/$defs/{name}"'
            if reference in given:
                given = given.replace(reference, f'"#/$defs/stage-{name}"')
                definitions[f"stage-{name}"] = {part: value for part, value in definition.items() if part != "required"}
        properties[key] = json.loads(given)
    names = {"type": "array", "items": {"type": "string"}}
    properties[AFTER_KEY] = {**names, "description": STAGE_AFTER}
    stage = {"type": "object", "properties": properties, "required": ["name"], "additionalProperties": False}
    document["properties"][STAGES_KEY] = {"type": "array", "minItems": 1, "items": stage, "description": STAGES}
    # A table that every stage brings need not be in the file itself.
    needed = [key for key in document.pop("required") if key in OVERLAY_KEYS]
    document["required"] = ["name"]
    document["anyOf"] = [{"required": needed}, {"required": [STAGES_KEY]}]


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
