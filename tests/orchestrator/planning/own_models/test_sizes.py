"""Which sizes of its ladder an arm of the user's own gets: those that are named, whatever ours are called."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.planning.canonical import content_id
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.spec.sweep_file import Override, SpecError
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.command_line import run_in
from tests.helpers.made_up_data import MADE_UP_DATA
from tests.helpers.own_answers import asked_here
from tests.helpers.paths import ROOT

SWEEP = f"""
base = "{ROOT / "tests/fixtures/eight.toml"}"
model.vocab_size = 512

[arms]
architectures = ["vanilla"]

[arms.ngram]
model = "examples.ngram_mlp:ngram"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder with a sweep file."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "sweep.toml").write_text(SWEEP)
    with asked_here(folder / "cache"):
        yield folder


def planned(folder: Path, names: list[str] | None = None, **changes: object) -> Plan:
    laid = [Override(flag="--sizes", path=("sizes",), value={"names": names})] if names else []
    laid += [Override(flag=key, path=tuple(key.split("__")), value=value) for key, value in changes.items()]
    return plan(load_spec(str(folder / "sweep.toml"), laid), MADE_UP_DATA)


def sizes(planned: Plan) -> dict[str, set[str]]:
    return {arm: {cell.size for cell in planned.cells if cell.arm == arm} for arm in ("vanilla", "ngram")}


def test_each_arm_trains_the_named_sizes_of_its_own_ladder(folder: Path) -> None:
    assert sizes(planned(folder, ["10k", "w8", "w16"])) == {"vanilla": {"10k"}, "ngram": {"w8", "w16"}}
    assert sizes(planned(folder, ["w8"], only=["ngram"])) == {"vanilla": set(), "ngram": {"w8"}}


def test_names_of_ours_alone_leave_the_whole_ladder_or_what_its_table_names(folder: Path) -> None:
    assert {"w4", "w8", "w32"} <= sizes(planned(folder))["ngram"]
    of_table = {"arms__ngram__sizes": ["w8"]}
    assert sizes(planned(folder, **of_table))["ngram"] == {"w8"}
    assert sizes(planned(folder, ["10k", "w16"], **of_table))["ngram"] == {"w16"}, "a flag goes before the file"


def test_named_sizes_are_part_of_the_grid_and_of_no_settings(folder: Path) -> None:
    first, other = planned(folder, ["10k", "w8"]), planned(folder, ["23k", "w16"])
    assert first.settings_id == other.settings_id
    whole = planned(folder)
    assert {segment.id for segment in first.segments} <= {segment.id for segment in whole.segments}
    assert planned(folder, arms__ngram__sizes=["w8"]).settings_id == whole.settings_id == first.settings_id


def test_another_object_under_the_same_label_is_other_settings(folder: Path) -> None:
    other = planned(folder, arms__ngram__model="examples.ngram_lion:ngram")
    assert other.settings_id != planned(folder).settings_id


def test_the_ids_that_counted_the_sizes_of_a_table_can_still_be_told(folder: Path) -> None:
    named = planned(folder, arms__ngram__sizes=["w8", "w16"])
    assert named.spec.arms is not None
    arms = named.spec.arms.plain(exclude={"architectures", "recursions"})
    assert arms["ngram"]["sizes"] == ["w8", "w16"]
    former = content_id({**named.settings, "arms": arms})
    assert named.settings_id_with({"ngram": ["w8", "w16"], "gone": ["small"]}) == former != named.settings_id
    assert named.settings_id_with({"ngram": None}) == named.settings_id, "without sizes it is the same id"


@pytest.mark.parametrize(
    ("names", "only", "sentence"),
    [
        (["w9"], ["ngram"], "sizes: size 'w9' is unknown: did you mean w"),
        (["10k", "w9"], None, "size 'w9' is unknown"),
        (["w8"], ["vanilla"], "size 'w8' is unknown"),
        (
            ["w8"],
            None,
            "none of w8 is a base shape, which arm vanilla needs: name one beside them, or leave the arm out",
        ),
    ],
)
def test_a_name_that_no_arm_has_is_a_sentence(
    folder: Path, names: list[str], only: list[str] | None, sentence: str
) -> None:
    with pytest.raises(SpecError) as refused:
        planned(folder, names, **({"only": only} if only else {}))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_flag_is_named_and_the_exit_code_that_of_a_wrong_call(folder: Path, toy_text: Path) -> None:
    flags = ("--preset", "sweep.toml", "--data", toy_text, "--dry-run", "--no-probe")
    done = run_in(folder, "isoflop", *flags, "--sizes", "w9", "--only", "ngram")
    assert done.returncode == 2
    assert "error: --sizes: size 'w9' is unknown: did you mean w" in done.stderr
