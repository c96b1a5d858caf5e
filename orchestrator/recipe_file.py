"""Recipe files: laws of learning rate and batch, laid over a sweep file by --recipe. Those of publications ship."""

from importlib import resources
from pathlib import Path

from orchestrator.sweep_file import Override, SpecError, did_you_mean, is_path, parse_toml

KEYS = ("learning_rate", "batch_law")
"""Of [train]: what a recipe may hold."""

FLAG = "--recipe"


def recipe_names() -> list[str]:
    """The recipes that ship: sweeps/recipes/NAME.toml."""
    return sorted(entry.name.removesuffix(".toml") for entry in (resources.files("sweeps") / "recipes").iterdir())


def recipe_overrides(recipe: str) -> list[Override]:
    """What a recipe, by name or path, changes in a sweep file. Raises SpecError."""
    document = parse_toml(_text(recipe), f"{FLAG}: {recipe}")
    laws = document.get("train", {})
    unknown = [*(f"[{key}]" for key in document if key != "train"), *(key for key in laws if key not in KEYS)]
    if unknown or not laws:
        found = f"found {', '.join(unknown)}" if unknown else "it is empty"
        raise SpecError(f"{FLAG}: {recipe}: {found}: expected [train.learning_rate.ARM] and [train.batch_law.ARM] only")
    overrides = [Override(flag=FLAG, path=("train", "recipe"), value="small")]
    for key, replaced in (("learning_rate", "peak_learning_rate"), ("batch_law", "batch_size")):
        if key in laws:
            overrides.append(Override(flag=FLAG, path=("train", key), value=laws[key]))
            overrides.append(Override(flag=FLAG, path=("train", replaced), value=None))
    return overrides


def _text(recipe: str) -> str:
    if is_path(recipe):
        try:
            return Path(recipe).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{FLAG}: {recipe} cannot be read ({error}): expected a TOML file or a name") from None
    if recipe not in recipe_names():
        raise SpecError(f"{FLAG}: {recipe!r} is no shipped recipe: {did_you_mean(recipe, recipe_names())}")
    return (resources.files("sweeps") / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
