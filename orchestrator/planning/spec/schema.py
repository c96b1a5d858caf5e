"""The JSON Schema of sweep files, for editors: what keys there are, their types, and what each means.

sweeps/sweep.schema.json is this text, made by `python -m orchestrator.planning.spec.schema`. A sweep file names it in a
comment, `#:schema PATH`, which editors with a TOML language server read. It says less than `mor-sweep config show`
checks: rules between keys are not in it, nor which keys must be there, since what a file leaves out may stand in its
base.
"""

import ast
import inspect
import json
import textwrap
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

from orchestrator.planning.spec import arms, sections
from orchestrator.planning.spec.sweep_file import BASE
from orchestrator.planning.spec.sweep_spec import SweepSpec

BASE_MEANS = (
    "What lies under this file: a preset (paper, gpu, cpu) or the path of another file, from where this one lies. What "
    "this file leaves out is as there; a name is this file's own."
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def sweep_schema() -> dict[str, Any]:
    """The schema as JSON values."""
    schema = SweepSpec.model_json_schema(mode="validation")
    modules = (sections, arms)
    tables = {
        name: kind
        for module in modules
        for name, kind in vars(module).items()
        if inspect.isclass(kind) and issubclass(kind, BaseModel)
    }
    for name, definition in ((SweepSpec.__name__, schema), *schema["$defs"].items()):
        descriptions = _field_docstrings(SweepSpec if name == SweepSpec.__name__ else tables[name])
        for key, field in definition.get("properties", {}).items():
            field.pop("title", None)
            if key in descriptions:
                field["description"] = descriptions[key]
    schema["properties"][BASE] = {"type": "string", "description": BASE_MEANS}
    return {"$schema": DIALECT, "title": "mor-sweep sweep file", **_loosened(schema)}


def schema_text() -> str:
    """What stands in sweeps/sweep.schema.json."""
    return json.dumps(sweep_schema(), indent=1, sort_keys=True) + "\n"


def _field_docstrings(section: type[BaseModel]) -> dict[str, str]:
    """The string under each field of a section's class, in one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)
    docstrings = {}
    for field, below in pairwise(body.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docstrings[name] = " ".join(text.split())
    return docstrings


def _loosened(value: Any) -> Any:
    """A table that fits several kinds is allowed: which one is meant may stand in another table (routing.choice). No
    key must be there."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key != "required"}
        return {("anyOf" if key == "oneOf" else key): _loosened(item) for key, item in kept.items()}
    return [_loosened(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    print(schema_text(), end="")
