"""The report as Markdown, to be pasted elsewhere: the page's tables and sentences, pictures by relative path."""

from collections.abc import Sequence

from brushwork.eval.reports.tables import Cell, Table


def report_markdown(
    title: str, lead: str, warnings: Sequence[str], tables: Sequence[Table], pictures: Sequence[tuple[str, str]]
) -> str:
    """The whole file.

    Args:
        title: the headline.
        lead: the sentence below it.
        warnings: set first, as a quotation.
        tables: in their order, each with its notes.
        pictures: (path relative to the file, what it shows), at the end.
    """
    parts = [f"# {escaped(title)}", escaped(lead)]
    if warnings:
        parts.append("\n".join(f"> **{escaped(sentence)}**  " for sentence in warnings))
    for table in tables:
        parts += [f"## {escaped(table.title)}", table_markdown(table), *map(escaped, table.notes)]
    parts += [f"![{escaped(words)}]({path})" for path, words in pictures]
    return "\n\n".join(parts) + "\n"


def table_markdown(table: Table) -> str:
    """A pipe table; the first column is aligned left, the others right."""
    lines = [
        row_markdown(table.columns),
        row_markdown([":--", *["--:"] * (len(table.columns) - 1)], raw=True),
        *(
            row_markdown([f"*{escaped(row.label)}*" if row.paper else escaped(row.label), *map(cell, row.cells)], True)
            for row in table.rows
        ),
    ]
    return "\n".join(lines)


def row_markdown(cells: Sequence[str], raw: bool = False) -> str:
    """One line of a table; cells are escaped unless they are Markdown already."""
    return f"| {' | '.join(text if raw else escaped(text) for text in cells)} |"


def cell(one: Cell) -> str:
    """A figure with what is set small behind it in brackets."""
    text = f"**{escaped(one.text)}**" if one.strong else escaped(one.text)
    small = "; ".join(map(escaped, one.small))
    return f"{text} ({small})" if small else text


def escaped(text: str) -> str:
    """Text on one line that no renderer takes for markup."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
