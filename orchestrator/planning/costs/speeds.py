"""How fast each shape of a plan trains, and how we know: earlier runs, a probe, shapes nearby, an assumption. Pure."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from mor_core.flops import training_flops_per_token
from mor_core.training.memory import Device
from mor_core.units import counted_text
from orchestrator.planning.costs.machine import ASSUMED_FLOPS_PER_SECOND
from orchestrator.planning.costs.work import Shape, family_of, segment_shape, shape_of
from orchestrator.planning.identity import Segment
from orchestrator.planning.plan import Plan, segment_flops


class FinishedTraining(Protocol):
    """What a published result says about the speed of a segment's training."""

    @property
    def train_seconds(self) -> float:
        """Of the steps that were executed."""
        ...

    @property
    def steps_executed(self) -> int:
        """The last so many of the segment's steps."""
        ...

    @property
    def peak_memory_bytes(self) -> int | None:
        """See Rate."""
        ...

    @property
    def last_numerics(self) -> Mapping[str, Any]:
        """What it was computed on."""
        ...


class Basis(StrEnum):
    """How a speed is known, the best first."""

    earlier_runs = "earlier runs"
    probe = "probe"
    interpolated = "interpolated"
    other_sweeps = "other sweeps"
    assumed = "assumed"


SENTENCES = {
    Basis.earlier_runs: "measured in earlier runs",
    Basis.probe: "measured by a probe",
    Basis.interpolated: "interpolated between measured shapes",
    Basis.other_sweeps: "as other sweeps on this machine",
    Basis.assumed: "assumed",
}

WORTH_A_PROBE = frozenset({Basis.other_sweeps, Basis.assumed})
"""What a probe would know better."""

ALIKE = 4.0
"""Most that the FLOPs of a shape's step may be above or below those of another whose speed stands for it."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast one shape trains."""

    flops_per_second: float
    """Exact training FLOPs per second of one worker."""
    basis: Basis
    """How that is known."""
    memory_bytes: int | None = None
    """Measured peak: of the GPU's allocator, else of the worker process with its libraries; None where not measured."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a probe found for one shape."""

    tokens_per_second: float
    """Of training."""
    memory_bytes: int | None
    """See Rate; None where the probe took fewer sequences at a time than training will."""


def rates_of(
    plan: Plan,
    device: Device,
    results: Mapping[str, FinishedTraining],
    probes: Mapping[Shape, Measured],
    *,
    sharing: int | Mapping[Shape, int] = 1,
    elsewhere: Mapping[float, float] | None = None,
) -> dict[Shape, Rate]:
    """A rate for every shape of a plan. `results` are published ones by segment id; those of other devices are left
    out. A probe has a GPU to itself: of `sharing` segments on one (of any shape, or by shape), each is taken to have
    that share of its speed, which is the least they can have. `elsewhere`: what other sweeps had here, by exact FLOPs
    of a step, in exact FLOPs per second."""
    shapes = shapes_of(plan)
    on_one = {shape: sharing if isinstance(sharing, int) else sharing[shape] for shape in shapes}
    rates = {shape: _probed(shape, probes[shape], on_one[shape]) for shape in shapes if shape in probes}
    rates |= _earlier(plan.segments, {name: result for name, result in results.items() if _is_on(device, result)})
    measured = dict(rates)
    speed = ASSUMED_FLOPS_PER_SECOND[device][0]
    return {
        shape: rates.get(shape)
        or _nearby(shape, measured)
        or _elsewhere(shape, elsewhere or {}, on_one[shape])
        or Rate(flops_per_second=speed / on_one[shape], basis=Basis.assumed)
        for shape in shapes
    }


def shapes_of(plan: Plan) -> list[Shape]:
    """The distinct shapes of a plan, those whose steps take the fewest FLOPs first."""
    return sorted(dict.fromkeys(shape_of(cell) for cell in plan.cells), key=_log_flops)


def measured_flops_per_second(segments: Sequence[Segment], results: Mapping[str, FinishedTraining]) -> float | None:
    """Exact FLOPs per second of one worker on those of the segments that are finished; None where none took a step."""
    trained = [(segment, results[segment.id]) for segment in segments if _has_trained(segment, results)]
    seconds = sum(result.train_seconds for _, result in trained)
    if not seconds:
        return None
    return (
        sum(segment_flops(segment, segment.stop_step - result.steps_executed) for segment, result in trained) / seconds
    )


def _has_trained(segment: Segment, results: Mapping[str, FinishedTraining]) -> bool:
    """Whether a segment's result is there, and says that it took steps."""
    return segment.id in results and results[segment.id].steps_executed > 0


def basis_text(rates: Mapping[Shape, Rate], device: Device) -> str:
    """What the rates of a plan rest on, in words."""
    counts = Counter(rate.basis for rate in rates.values())
    if set(counts) == {Basis.assumed}:
        return ASSUMED_FLOPS_PER_SECOND[device][1]
    bases = [(basis, counts[basis]) for basis in Basis if counts[basis]]
    if len(bases) == 1:
        return f"{SENTENCES[bases[0][0]]}: {counted_text(bases[0][1], 'shape')}"
    return (
        ", ".join(f"{SENTENCES[basis]} for {count}" for basis, count in bases)
        + f" of {counted_text(len(rates), 'shape')}"
    )


def _probed(shape: Shape, measurement: Measured, sharing: int) -> Rate:
    speed = measurement.tokens_per_second * float(training_flops_per_token(shape.model, "exact")) / sharing
    return Rate(flops_per_second=speed, basis=Basis.probe, memory_bytes=measurement.memory_bytes)


def _earlier(segments: Sequence[Segment], results: Mapping[str, FinishedTraining]) -> dict[Shape, Rate]:
    """Rates of the shapes of which segments are finished."""
    by_shape: dict[Shape, list[Segment]] = defaultdict(list)
    for segment in segments:
        if _has_trained(segment, results):
            by_shape[segment_shape(segment)].append(segment)
    rates = {}
    for shape, trained in by_shape.items():
        speed = measured_flops_per_second(trained, results)
        peaks = [results[segment.id].peak_memory_bytes or 0 for segment in trained]
        if speed:
            rates[shape] = Rate(flops_per_second=speed, basis=Basis.earlier_runs, memory_bytes=max(peaks) or None)
    return rates


def _is_on(device: Device, result: FinishedTraining) -> bool:
    """Whether a result was computed on this kind of device; one that does not say counts."""
    name = result.last_numerics.get("device")
    return name is None or str(name).startswith("cpu") == (device == "cpu")


def _nearby(shape: Shape, measured: Mapping[Shape, Rate]) -> Rate | None:
    """log speed against log FLOPs a token, linear between the measured shapes on either side and flat beyond them;
    of the same routing and recursions where one of those is measured."""
    alike = {
        known_shape: rate for known_shape, rate in measured.items() if family_of(known_shape) == family_of(shape)
    } or measured
    if not alike:
        return None
    points = sorted((_log_flops(known_shape), math.log(rate.flops_per_second)) for known_shape, rate in alike.items())
    return Rate(flops_per_second=_between(points, _log_flops(shape)), basis=Basis.interpolated)


def _elsewhere(shape: Shape, speeds: Mapping[float, float], sharing: int) -> Rate | None:
    """The same between the speeds of other sweeps, where one of them is of a shape that is like this one."""
    points = sorted((math.log(flops), math.log(speed)) for flops, speed in speeds.items())
    at = math.log(step_flops(shape))
    if not any(abs(other - at) <= math.log(ALIKE) for other, _ in points):
        return None
    return Rate(flops_per_second=_between(points, at) / sharing, basis=Basis.other_sweeps)


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """exp of the line between the points on either side of `at`, flat beyond them; points are sorted logarithms."""
    below = max((point for point in points if point[0] <= at), default=points[0])
    above = min((point for point in points if point[0] >= at), default=points[-1])
    span = above[0] - below[0]
    weight = (at - below[0]) / span if span > 0 else 0.0
    return math.exp(below[1] + weight * (above[1] - below[1]))


def step_flops(shape: Shape) -> float:
    """Exact training FLOPs of one optimiser step: what the speed of small shapes goes by, since a step takes some time
    however little it computes."""
    return float(training_flops_per_token(shape.model, "exact")) * shape.batch_size * shape.model.context_length


def _log_flops(shape: Shape) -> float:
    return math.log(float(training_flops_per_token(shape.model, "exact")))
