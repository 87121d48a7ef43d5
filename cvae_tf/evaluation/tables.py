"""Tables of numbers as CSV columns, and as Markdown, which is also readable in a terminal."""


def psnr_table(curves):
    """Arrange PSNR curves as a table.

    Args:
        curves: name -> (T,) PSNR in dB for frames 1 to T.

    Returns:
        ``(header, rows)``, with a column ``frame`` and a column ``psnr_NAME`` for each curve.
    """
    header = ["frame", *(f"psnr_{name.replace(' ', '_').replace('-', '_')}" for name in curves)]
    columns = ((f"{value:.4f}" for value in values) for values in curves.values())
    return header, list(zip(range(1, 1 + len(next(iter(curves.values())))), *columns, strict=True))


def markdown(header, rows):
    """A Markdown table: the first column is left-aligned, the others are right-aligned."""
    cells = [[str(cell).replace("|", "/").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(
        zip(row, widths, strict=True))] for row in cells]
    rule = ["-" * (width - 1) + ":" if i else "-" * width for i, width in enumerate(widths)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))
