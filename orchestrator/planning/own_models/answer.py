"""What the planner's child process does: import a user's own model, check it, and say what its sizes are.

python -m orchestrator.planning.own_models.answer    a request as JSON on stdin; the answer as JSON, the last line
"""

import json
import sys
from pathlib import Path
from typing import Any

from mor_core.model.own.code import OwnImportError, OwnModelError, import_from
from mor_core.model.own.model import load_definition
from orchestrator.planning.canonical import to_jsonable
from orchestrator.planning.own_models.check import check_model


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The sizes of an own model with their facts, and its code; or what is wrong, in sentences."""
    import_from(Path.cwd())
    try:
        definition = load_definition(request["model"])
        check = check_model(
            request["model"], vocab_size=request["vocab_size"], context_length=request["context_length"]
        )
        code = definition.code()
    except OwnModelError as error:
        return {"problems": str(error).splitlines(), "import_failed": isinstance(error, OwnImportError)}
    return {
        "problems": list(check.problems),
        "import_failed": False,
        "warnings": list(check.warnings),
        "models": [to_jsonable(model) for model in check.models],
        "files": [str(path) for path in definition.files],
        "sha256": code.sha256,
        "versions": dict(code.versions),
    }


if __name__ == "__main__":
    reply = answer(json.load(sys.stdin))
    sys.stdout.flush()
    print("\n" + json.dumps(reply))
