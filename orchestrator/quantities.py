"""Numbers as people read them in a table: counts, bytes, durations, budgets and money. Pure."""

from orchestrator.budgets import budget_text

LONGEST_BUDGET = 9
"""Characters of a budget that are shown exactly."""


def short_budget(budget: int) -> str:
    """A budget, exact where that is short: what a number of tokens costs is not, and is rounded."""
    exact = budget_text(budget)
    return exact if len(exact) <= LONGEST_BUDGET else power_text(budget)


def power_text(count: int) -> str:
    """Three digits and the power of ten."""
    return f"{count:.2e}".replace("e+", "e")


def count_text(count: float) -> str:
    """A count to three digits with k, M, B or T."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}" if count < 1000 * size else f"{count / size:,.0f}{unit}"
    return str(round(count))


def bytes_text(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{round(count)} bytes"


def money_text(amount: float) -> str:
    """An amount in the currency of its price, to the hundredth; small ones to two digits."""
    return f"{amount:,.2f}" if amount >= 0.1 else f"{amount:.2g}"


def duration_text(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} seconds"
