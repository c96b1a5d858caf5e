"""Where a figure or a report comes from: enough to make it again, and to see what it leaves out."""

from collections import Counter
from dataclasses import dataclass

from analysis.frontier.study import Study


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What a figure was made of and how."""

    source: str
    """The sweep's name, or the table's."""
    data: str
    """The data snapshot that the runs were trained on; empty where nobody says."""
    version: str
    """Version of this package."""
    budget_convention: str
    """How the FLOPs of budgets are counted."""
    loss_column: str
    """The loss fitted."""
    loss_unit: str
    """Its unit."""
    num_used: int
    """Cells used."""
    left_out: dict[str, int]
    """Cells left out, by reason."""
    method: str
    """How the numbers come from the cells."""
    inputs_sha256: str
    """Hash of the points and exclusions."""
    assumed: str = ""
    """What was worked out because a foreign table does not have it; empty where nothing was."""

    def lines(self) -> list[str]:
        """Two lines for the foot of a figure, and a third for what was assumed."""
        left_out = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items())
        named = f"{self.source}" + (f" on {self.data}" if self.data else "")
        cells = f"{self.num_used} cells used, {sum(self.left_out.values())} left out"
        return [
            f"{named}; {self.loss_column} in {self.loss_unit}, {self.budget_convention} FLOPs; {cells}"
            + (f" ({left_out})" if left_out else ""),
            f"{self.method}; mor-sweep {self.version}, inputs {self.inputs_sha256[:16]}",
            *([self.assumed] if self.assumed else []),
        ]


def provenance_of(study: Study, *, source: str, data: str, version: str) -> Provenance:
    """Of anything that is drawn from `study`."""
    counts = Counter(exclusion.reason.split(":")[0] for exclusion in study.exclusions)
    resampling = study.settings.resampling
    return Provenance(
        source=source,
        data=data,
        version=version,
        budget_convention=study.points.budget_convention,
        loss_column=study.points.loss_column if study.reading is None else study.reading.columns["loss"].name,
        loss_unit=study.points.loss_unit,
        num_used=study.points.frame.height,
        left_out=dict(sorted(counts.items())),
        method=f"{' and '.join(study.settings.approaches)}, {resampling.level:.0%} intervals of {resampling.draws} "
        f"redrawn studies (seed {resampling.random_seed})",
        inputs_sha256=study.points.inputs_sha256,
        assumed="" if study.reading is None else study.reading.sentence,
    )
