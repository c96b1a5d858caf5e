"""Numbers and lists as people write and read them: budgets, counts, bytes, durations and money. Budgets are exact:
"16.5e18" is 16500000000000000000, never a rounded float."""

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

LARGEST_BUDGET = 10**40
"""FLOPs. Anything above is a slip of the exponent."""


def parse_budget(value: object) -> int:
    """Text such as "16.5e18" as an exact count of FLOPs (16500000000000000000). Raises ValueError with a sentence."""
    expected = "expected a positive whole number of FLOPs, such as 2e18"
    if isinstance(value, float):
        raise ValueError(f'{value!r} may have been rounded: write it in quotes, such as "2e18", so that it stays exact')
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{value!r} is not a budget: {expected}")
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"one item is empty: {expected}, or remove the extra comma")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a number: {expected}") from None
    if not number.is_finite() or not 0 < number < LARGEST_BUDGET:
        raise ValueError(f"{str(value)!r} is out of range: {expected}, below 1e40")
    if number != number.to_integral_value():
        raise ValueError(f"{str(value)!r} is not whole: {expected}")
    return int(number)


def budget_text(budget: int) -> str:
    """The shortest exact text: 16500000000000000000 is "1.65e19"."""
    digits = str(budget).rstrip("0")
    if len(str(budget)) <= 4:
        return str(budget)
    point = "." if len(digits) > 1 else ""
    return f"{digits[0]}{point}{digits[1:]}e{len(str(budget)) - 1}"


LONGEST_BUDGET = 9
"""Characters of a budget that are shown exactly."""


def short_budget(budget: int) -> str:
    """A budget, exact where that is short: what a number of tokens costs is not, and is rounded."""
    exact = budget_text(budget)
    return exact if len(exact) <= LONGEST_BUDGET else power_text(budget)


def power_text(count: int) -> str:
    """Three digits and the power of ten."""
    return f"{count:.2e}".replace("e+", "e")


def short_power(count: float, digits: int = 3) -> str:
    """As many digits as say something, and the power of ten: 1.6e11 and not 1.60e+11; plain below 10,000."""
    if 0.001 <= abs(count) < 1e4 or count == 0:
        return f"{count:.{digits}g}" if abs(count) < 10**digits else f"{count:.0f}"
    digits_text, power = f"{count:.{digits - 1}e}".split("e")
    return f"{digits_text.rstrip('0').rstrip('.') if '.' in digits_text else digits_text}e{int(power)}"


def amount_text(amount: float) -> str:
    """Three digits: 0.192, 1,080, 18.9M; never a power of ten where people count."""
    if amount >= 1e6:
        return count_text(amount)
    return f"{float(f'{amount:.3g}'):,.0f}" if amount >= 1000 else f"{amount:.3g}"


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


def counted_text(count: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """ "a", "a and b" or "a, b and c", of one name or more."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def duration_text(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{amount_text(seconds / size)} {unit}"
    return f"{seconds:.0f} seconds"


def budget_label(budget: str) -> str:
    """A budget for people, exact: "16500000000000000000" -> "1.65e19"."""
    sign, digits, exponent = Decimal(budget).normalize().as_tuple()
    assert sign == 0
    assert isinstance(exponent, int)
    power = len(digits) - 1 + exponent
    fraction = "".join(map(str, digits[1:]))
    return f"{digits[0]}{'.' + fraction if fraction else ''}e{power}"


def short_count(count: float) -> str:
    """Four significant digits with k, M, B or T."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if float(f"{count:.4g}") >= size:
            return f"{count / size:#.4g}".rstrip(".") + unit
    return f"{count:.4g}"
