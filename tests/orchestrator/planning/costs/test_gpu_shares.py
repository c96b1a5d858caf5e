"""Small cells share a GPU by the memory that they need, large ones get a whole one."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.costs.estimate import estimate, unit_seconds
from orchestrator.planning.costs.gpu_shares import (
    CONTEXT_BYTES,
    MARGIN,
    Card,
    card_of,
    parts_of,
    segments_at_a_time,
    share_of,
    share_text,
    shares_of,
    sharing_text,
)
from orchestrator.planning.costs.limits import Limits, allowance_of
from orchestrator.planning.costs.machine import Throughput, asked_of_driver, driver_memories
from orchestrator.planning.costs.speeds import Basis, Measured, Rate, rates_of, shapes_of
from orchestrator.planning.costs.work import shape_of, work_of
from orchestrator.planning.plan import plan
from tests.helpers.command_line import run
from tests.helpers.paths import SMALL_PRESET

CARD = Card(memory_bytes=80 * 10**9, basis="planted")
FAST = Throughput(device="cuda", flops_per_second=1e9, workers=2, basis="planted", devices=2, slots=16)


@given(memory=st.integers(1, 200 * 10**9), card=st.integers(10**9, 200 * 10**9))
def test_as_many_segments_as_share_a_card_fit_into_its_memory_and_no_smaller_share_would_do(memory: int, card: int):
    share = share_of(memory, Card(memory_bytes=card, basis="planted"))
    parts, needed = parts_of(share), MARGIN * memory + CONTEXT_BYTES
    assert parts in (1, 2, 3, 4, 5, 8)
    assert parts * share <= 1
    assert parts == 1 or parts * needed <= card
    assert all(more * needed > card for more in (2, 3, 4, 5, 8) if more > parts)


@given(one=st.integers(1, 200 * 10**9), other=st.integers(1, 200 * 10**9))
def test_more_memory_never_gets_a_smaller_share(one: int, other: int):
    small, large = sorted((one, other))
    assert share_of(small, CARD) <= share_of(large, CARD)


@pytest.mark.parametrize(("parts", "text"), [(1, "1"), (2, "1/2"), (3, "1/3"), (5, "1/5"), (8, "1/8")])
def test_a_share_is_a_fraction_for_people(parts: int, text: str):
    memory = (CARD.memory_bytes / parts - CONTEXT_BYTES) / MARGIN
    assert share_text(share_of(int(memory), CARD)) == text


def test_the_card_is_what_the_sweep_says_else_the_smallest_that_the_driver_names_else_assumed():
    assert card_of(24, [10**9]) == Card(memory_bytes=24 * 10**9, basis="execution.gpu_memory_gigabytes")
    assert card_of(None, [80 * 10**9, 40 * 10**9]) == Card(memory_bytes=40 * 10**9, basis="nvidia-smi")
    assert card_of(None, []).basis.startswith("assumed")


def planted(planned, small_bytes: int, large_bytes: int) -> dict:
    """Rates of a plan whose largest shape was measured to take more memory than the others."""
    *small, large = shapes_of(planned)
    rates = {shape: Rate(flops_per_second=1e9, basis=Basis.probe, memory_bytes=small_bytes) for shape in small}
    return rates | {large: Rate(flops_per_second=1e9, basis=Basis.probe, memory_bytes=large_bytes)}


def test_hours_time_and_limits_count_each_segment_by_its_share(small_sweep, snapshot):
    planned = plan(small_sweep({"arms.architectures": ["vanilla"]}), snapshot)
    rates = planted(planned, 10**9, 50 * 10**9)
    whole = estimate(planned, FAST, rates, num_evaluation_sequences=256)
    shares = shares_of(planned, whole.cells, CARD)
    assert set(shares.values()) == {0.125, 1.0}
    assert segments_at_a_time(shares, 2) == 16
    found = estimate(planned, FAST, rates, num_evaluation_sequences=256, shares=shares)
    for cell, by_share, alone in zip(planned.cells, found.cells, whole.cells, strict=True):
        assert by_share.devices == shares[shape_of(cell)]
        assert by_share.hours == pytest.approx(alone.hours * by_share.devices)
    assert found.hours == pytest.approx(sum(cell.hours for cell in found.cells))
    units = work_of(planned, 256)
    device_seconds = sum(
        each * shares[unit.shape] for unit, each in zip(units, unit_seconds(units, rates), strict=True)
    )
    assert found.seconds >= device_seconds / 2
    said = sharing_text(found.cells, CARD)
    assert said.startswith("1/8 for ")
    assert "80 GB a GPU (planted)" in said
    allowance = allowance_of(
        planned,
        units,
        replace(found, sharing=said),
        unit_seconds(units, rates),
        Limits(),
        finished=(),
    )
    assert set(allowance.hours.gpu_shares.values()) == {0.125, 1.0}
    assert set(allowance.hours.gpu_shares) == {segment.id for segment in planned.segments}


def test_a_probe_that_had_the_card_to_itself_counts_by_the_share_of_each_shape(small_sweep):
    planned = plan(small_sweep({"arms.architectures": ["vanilla"]}), None)
    probes = {shape: Measured(tokens_per_second=1000.0, memory_bytes=1) for shape in shapes_of(planned)}
    alone = rates_of(planned, "cuda", {}, probes)
    sharing = {shape: number for number, shape in enumerate(shapes_of(planned), start=1)}
    for shape, rate in rates_of(planned, "cuda", {}, probes, sharing=sharing).items():
        assert rate.flops_per_second == pytest.approx(alone[shape].flops_per_second / sharing[shape])


@pytest.fixture
def with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a driver's program on the path that names GPUs of so many MiB."""

    def program(*memories: str) -> None:
        listed = "\n".join(memories)
        path = tmp_path / "bin" / "nvidia-smi"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ncat <<END\n{listed}\nEND\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")

    return program


def test_the_driver_is_asked_for_memory_and_one_that_has_none_of_its_own_counts_as_unknown(with_gpus):
    with_gpus("81559", "40960")
    assert driver_memories() == [81559 * 2**20, 40960 * 2**20]
    with_gpus("[N/A]")
    assert asked_of_driver("memory.total") == ["[N/A]"]
    assert driver_memories() == []


def test_the_plan_shows_each_cells_share_and_counts_by_it(with_gpus, tmp_path: Path):
    with_gpus("81559")
    preset = tmp_path / "auto.toml"
    preset.write_text(SMALL_PRESET.read_text() + 'gpus_per_segment = "auto"\n')
    arguments = ("isoflop", "--preset", str(preset), "--dry-run", "--results", str(tmp_path / "results"))
    cache = {"MOR_SWEEP_CACHE": str(tmp_path / "cache")}
    done = run(*arguments, **cache)
    assert done.returncode == 0, done.stderr
    assert "GPU shares" in done.stdout
    assert "1/8 for" in done.stdout
    assert "nvidia-smi" in done.stdout
    told = json.loads(run(*arguments, "--json", **cache).stdout)["data"]
    assert {cell["cost"]["devices"] for cell in told["cells"]} == {0.125}
    assert sum(cell["cost"]["hours"] for cell in told["cells"]) == pytest.approx(told["estimate"]["hours"])
    assert told["estimate"]["throughput"]["device"] == "cuda"
    preset.write_text(SMALL_PRESET.read_text() + 'gpus_per_segment = "auto"\ngpu_memory_gigabytes = 1\n')
    told = json.loads(run(*arguments, "--json", **cache).stdout)["data"]
    assert 1.0 in {cell["cost"]["devices"] for cell in told["cells"]}
    assert "execution.gpu_memory_gigabytes" in told["estimate"]["sharing"]


def test_a_machine_without_a_gpu_has_nothing_to_share(tmp_path: Path):
    preset = tmp_path / "auto.toml"
    preset.write_text(SMALL_PRESET.read_text() + 'gpus_per_segment = "auto"\n')
    told = json.loads(
        run("isoflop", "--preset", str(preset), "--dry-run", "--json", "--results", str(tmp_path), PATH="/bin").stdout
    )["data"]["estimate"]
    assert (told["sharing"], told["throughput"]["device"]) == ("", "cpu")
