"""Tables of numbers: as CSV columns, and as text for the terminal that is Markdown too."""


def psnr_table(curves):
    """Header and rows of a table of PSNR curves, name -> (T,) dB of frames 1 to T: ``frame`` and ``psnr_NAME``."""
    header = ["frame", *(f"psnr_{name.replace(' ', '_').replace('-', '_')}" for name in curves)]
    columns = ((f"{value:.4f}" for value in values) for values in curves.values())
    return header, list(zip(range(1, 1 + len(next(iter(curves.values())))), *columns, strict=True))


def markdown(header, rows):
    """A Markdown table whose columns are aligned; the first column to the left, the others to the right."""
    cells = [[str(cell).replace("|", "/").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(
        zip(row, widths, strict=True))] for row in cells]
    rule = ["-" * (width - 1) + ":" if i else "-" * width for i, width in enumerate(widths)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (lines[0], rule, *lines[1:]))
