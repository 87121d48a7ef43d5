"""Pages and plots."""

import re
from xml.etree import ElementTree

import numpy as np

from cvae_tf.evaluation import page, plots
from cvae_tf.evaluation.plots import Line, line_figure

NAME = "<b>$x_1$ & \"y\"</b>"


def _figure(values, **options):
    return line_figure({NAME: [Line(NAME, range(len(values)), values)]}, "frame", "PSNR (dB)", **options)


def test_names_are_text_in_every_block_and_nothing_runs_or_is_fetched():
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    blocks = [page.text(NAME), page.table(["name"], [[NAME]], NAME), page.figure(_figure([1, 2]), NAME),
              page.film({NAME: frames}, NAME)]
    html = page.render(NAME, blocks, {NAME: blocks})
    assert "<b>" not in html and "$x_1$" in html and html.count("&lt;b&gt;") > 10
    assert "default-src 'none'" in html and html.lstrip().startswith("<!DOCTYPE html>")
    assert not re.search("<script|<link|javascript:", html)


def test_a_plot_in_a_page_has_its_text_as_text_in_the_colours_of_the_page():
    element = plots.svg(_figure([1e-3, 1.0], log=True))
    texts = [part.text for part in ElementTree.fromstring(element).iter() if part.tag.endswith("text")]
    assert {"frame", "PSNR (dB)", NAME, "0.001", "0.01", "0.1", "1"} <= {*texts} and "mathdefault" not in element
    assert "currentColor" in element and not re.search("#0{3,6}|#f{6}|fill: white", element)
    assert element == plots.svg(_figure([1e-3, 1.0], log=True))


def test_a_few_extreme_values_leave_the_picture_and_a_baseline_stays_in_it():
    curve = np.append(np.full(990, 30.0) + np.arange(990) / 990, np.full(10, 100.0))
    copied = np.append(np.full(300, 100.0), np.full(700, 15.0))
    figure = line_figure({"": [Line("model", range(1000), curve), Line("copy-first", range(1000), copied, faint=True)]},
                         "frame", "PSNR (dB)", clip=True)
    low, high = figure.axes[0].get_ylim()
    assert 10 < low < 15 and 31 < high < 35
    whole = line_figure({"": [Line("model", range(1000), curve)]}, "frame", "PSNR (dB)")
    assert whole.axes[0].get_ylim()[1] > 100


def test_what_has_no_spread_or_no_values_is_drawn_too():
    for values in (np.full(5, 20.0), np.full(5, np.nan), np.array([1.0])):
        assert plots.png(_figure(values, clip=True))[:4] == b"\x89PNG"


def test_curves_that_coincide_are_of_different_widths():
    figure = line_figure({"": [Line(name, [0, 1], [1, 2]) for name in "abc"]}, "x", "y")
    widths = [line.get_linewidth() for line in figure.axes[0].get_lines()]
    assert widths[0] > widths[1] > widths[2]
