"""rich's console as this program uses it: what is shown may come from files of others, and no control character of
theirs reaches the terminal. Plain lines are cleaned on their way to stdout and stderr (`terminal.clean_streams`)."""

from collections.abc import Iterable

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from orchestrator.records.terminal import without_controls


class Console(rich.console.Console):
    """Every part of what is shown passes here, before rich adds colours and cursor movements of its own."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of something, their texts without control characters."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(without_controls(segment.text), segment.style)
