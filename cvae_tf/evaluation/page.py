"""A report as one HTML file, which works offline and runs no script. These functions make its blocks."""

import base64
import tempfile
from pathlib import Path

import jinja2
from markupsafe import Markup

from cvae_tf.data.film import side_by_side, write_gif
from cvae_tf.evaluation.plots import svg


def text(words, kind=""):
    """A paragraph; ``kind`` is ``"verdict"``, ``"small"`` or empty."""
    return {"text": words, "kind": kind}


def table(header, rows, lead=None):
    """A table, of which the row with the first cell ``lead`` stands out."""
    return {"header": header, "rows": rows, "lead": lead}


def figure(drawn, title=""):
    """A Matplotlib figure as SVG."""
    return {"svg": Markup(svg(drawn)), "title": title}  # Matplotlib escapes the text in it


def film(panels, title=""):
    """Films side by side as an animated GIF: name -> (T, H, W, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.gif"
        write_gif(path, side_by_side(*panels.values()))
        return {"film": f"data:image/gif;base64,{base64.b64encode(path.read_bytes()).decode()}", "names": list(panels),
                "title": title}


def render(title, blocks, sections):
    """The page as HTML text.

    Args:
        title: heading of the page.
        blocks: list of blocks to show first.
        sections: heading -> list of blocks, folded.
    """
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(title=title, blocks=blocks, sections=sections)
