"""Budgets as text and as exact counts of FLOPs. "16.5e18" is 16500000000000000000, never a rounded float."""

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
