"""Small HTML tables for notebooks: escaped, without scripts or styles of their own but alignment."""

from collections.abc import Sequence

from markupsafe import Markup, escape


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, most: int) -> str:
    """A table with a caption; of more than `most` rows the first, and how many are left out."""
    cells = Markup("").join(Markup("<th>{}</th>").format(name) for name in head)
    body = Markup("").join(_row(row) for row in rows[:most])
    more = f" (the first {most} of {len(rows)} rows)" if len(rows) > most else ""
    return str(
        Markup("<table><caption>{}{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
            title, more, cells, body
        )
    )


def html_list(lines: Sequence[str]) -> str:
    """Sentences, one below the other."""
    return str(Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)))


def _row(row: Sequence[str]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(escape(each)) for each in row))
