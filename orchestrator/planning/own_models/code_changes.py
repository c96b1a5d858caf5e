"""Whether the code of a user's own models is what published segments were trained with. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mor_core.config.own_model import OwnModel
from mor_core.errors import Fix, Refused
from mor_core.model.own.code import CodeFingerprint
from orchestrator.planning.identity import Segment

SHA256, VERSIONS = "own_model", "own_model_versions"
"""Keys of `CodeFingerprint.to_numerics`."""


class OtherCode(Refused):
    """A plan that would go on from what other code of an own model computed."""


class Computed(Protocol):
    """What a published result says about how it was computed."""

    @property
    def numerics(self) -> Sequence[Mapping[str, Any]]:
        """The distinct ways."""
        ...


def check_same_code(
    segments: Sequence[Segment], results: Mapping[str, Computed], code_of: Mapping[str, CodeFingerprint]
) -> None:
    """Raise OtherCode where a published segment of an own model was computed with other code than `code_of` says of
    its object now, or beside other versions of what that imports."""
    counts: dict[str, int] = defaultdict(int)
    objects: dict[str, tuple[str, set[str]]] = {}
    for segment in segments:
        model = segment.trunk.model
        if not isinstance(model, OwnModel) or segment.id not in results or model.object not in code_of:
            continue
        now = code_of[model.object].to_numerics()
        differing = {key for used in results[segment.id].numerics for key in now if used.get(key) != now[key]}
        if differing:
            counts[model.object] += 1
            objects.setdefault(model.object, (model.version, set()))[1].update(differing)
    if not counts:
        return
    raise OtherCode(
        "\n".join(_sentence(name, *objects[name], counts[name]) for name in counts),
        fix=Fix(setting="same_model", words="give {} if losses cannot have changed"),
    )


def _sentence(name: str, version: str, differing: set[str], count: int) -> str:
    changes = " and ".join(
        words for key, words in ((SHA256, "its code"), (VERSIONS, "what it imports")) if key in differing
    )
    were = "1 segment was" if count == 1 else f"{count} segments were"
    return (
        f"model {name}: {changes} changed since {were} published under its version {version}: raise the version, which "
        "trains them anew"
    )
