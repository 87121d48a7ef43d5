import csv
import dataclasses
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.colors import to_rgb

from cvae_tf.config import PRESETS, Config
from cvae_tf.errors import InputError
from cvae_tf.evaluation import plots
from cvae_tf.evaluation.plots import Line, line_figure
from cvae_tf.experiments.compare import (
    ANNEALING,
    FIGURES,
    FORCING,
    compare,
    figures,
    labels,
    load_run,
    panels_by,
    table,
)
from cvae_tf.experiments.seeds import by_seed, seeds_table, verdict
from cvae_tf.experiments.study import plan
from cvae_tf.files import write_csv
from cvae_tf.model.schedules import beta_table, linear_decay
from cvae_tf.training.callbacks import COLUMNS
from cvae_tf.training.run import RunFolders

STUDY = Config(**{**PRESETS["study"], "preset": "study", "num_epoch": 20})


def _write_run(folder, config, epochs=None, offset=0.0):
    """A run folder as a training leaves it, with made-up numbers; validated after epochs 2, 4, ..."""
    folders = RunFolders(folder)
    folder.mkdir(parents=True)
    folders.config.write_text(config.to_json())
    betas = beta_table(config.kl_anneal_type, config.num_epoch, config.kl_anneal_cycle, config.kl_anneal_ratio)
    tfr_of, rows = linear_decay(config.tfr, config.tfr_sde, config.tfr_d_step), []
    for epoch in range(config.num_epoch if epochs is None else epochs):
        mse, kl = 1 / (epoch + 1) + offset, 0.1 / (epoch + 1)
        validated = [20 - (epoch - 7) ** 2 / 10 + offset, 21 + offset, 16.0] if epoch % 2 else [""] * 3
        rows.append([epoch, mse + betas[epoch] * kl, mse, kl, betas[epoch], tfr_of(epoch), 1e-3, 1, *validated, 0, 6.0,
                     0.5])
    write_csv(folders.metrics, COLUMNS, rows)
    if len(rows) > 1:
        write_csv(folders.psnr_per_frame, ["frame", "psnr_prior", "psnr_posterior", "psnr_copy_first"],
                  [[t, 20 + offset + t / 10, 30, 40 - t] for t in range(1, 11)])
    return folder


@pytest.fixture(scope="module")
def study_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    return [_write_run(root / config.run_dir.split("/")[-1], config, offset=i / 10)
            for i, config in enumerate(plan(STUDY, root))]


@pytest.fixture(scope="module")
def study_runs(study_folders):
    return [load_run(folder) for folder in study_folders]


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are drawn but not rendered, which takes most of the time of a comparison."""
    monkeypatch.setattr("cvae_tf.experiments.compare.save_figure", lambda figure, stem: None)
    monkeypatch.setattr("cvae_tf.evaluation.page.svg", lambda figure: "")


def _drawn(figure):
    """Title of a panel -> label -> (x, y), read back from the axes."""
    return {axes.get_title(): {line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
                               for line in axes.get_lines()} for axes in figure.axes if axes.get_visible()}


def test_a_study_is_drawn_in_a_panel_for_each_setting_of_the_other_schedule(study_runs):
    made = figures(study_runs)
    drawn = _drawn(made["1_training_loss_by_teacher_forcing"])
    assert list(drawn) == ["Cyclical", "Monotonic", "WithoutKL"]
    for panel in drawn.values():
        assert list(panel) == ["tfr 1.0, -0.1 an epoch", "tfr 0.5, not decaying", "tfr 0.0"]
    drawn = _drawn(made["3_training_loss_by_annealing"])
    assert list(drawn) == ["tfr 1.0, -0.1 an epoch", "tfr 0.5, not decaying", "tfr 0.0"]
    run = study_runs[5]  # Monotonic, tfr 0
    x, y = drawn["tfr 0.0"]["Monotonic"]
    assert x == list(range(1, 21)) and y == run.epochs["loss"].tolist()
    assert _drawn(made["6_mse"])["tfr 0.0"]["Monotonic"][1] == run.epochs["mse"].tolist()
    assert _drawn(made["7_kl"])["tfr 0.0"]["Monotonic"][1] == run.epochs["kl"].tolist()


def test_validations_are_drawn_at_their_epochs_with_copy_first(study_runs):
    drawn = _drawn(figures(study_runs)["2_validation_psnr_by_teacher_forcing"])["WithoutKL"]
    x, y = drawn["tfr 0.5, not decaying"]
    assert x == list(range(2, 21, 2))
    np.testing.assert_allclose(y, [20 - (epoch - 1 - 7) ** 2 / 10 + 0.7 for epoch in x])
    assert drawn["copy-first"][1] == [16.0] * 10


def test_each_schedule_is_drawn_once(study_runs):
    made = figures(study_runs)
    (beta,), (forcing,) = (_drawn(made[name]).values() for name in ("4_beta", "8_teacher_forcing_ratio"))
    assert {name: y for name, (_, y) in beta.items()} == {
        kind: beta_table(kind, 20, 7, 1.0) for kind in ("Cyclical", "Monotonic", "WithoutKL")}
    np.testing.assert_allclose(forcing["tfr 1.0, -0.1 an epoch"][1], [1] * 10 + [1 - 0.1 * i for i in range(1, 11)],
                               atol=1e-9)
    assert forcing["tfr 0.5, not decaying"][1] == [0.5] * 20 and len(forcing) == 3


def test_psnr_per_frame_has_copy_first_as_a_thin_grey_line(study_runs):
    figure = figures(study_runs)["5_psnr_per_frame"]
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["Cyclical"].get_ydata()) == pytest.approx([20 + t / 10 for t in range(1, 11)])
    assert lines["copy-first"].get_linewidth() < lines["Cyclical"].get_linewidth()
    assert list(lines["copy-first"].get_ydata()) == [40 - t for t in range(1, 11)]
    assert axes.get_ylabel() == "PSNR (dB)" and figure.axes[0].get_xlabel() == "frame"


def test_every_figure_has_labelled_axes_and_units(study_runs):
    loss = "(MSE + gdl x GD + beta x nats)"
    units = {"1": loss, "2": "(dB)", "3": loss, "4": "(1 per nat)", "5": "(dB)", "6": "(pixels in [0, 1])",
             "7": "(nats per clip)", "8": "ratio"}
    made = figures(study_runs)
    assert set(made) == set(FIGURES)
    for name, figure in made.items():
        below = [axes for axes in figure.axes if axes.get_subplotspec().is_last_row()]
        left = [axes for axes in figure.axes if axes.get_subplotspec().is_first_col()]
        assert {axes.get_xlabel() for axes in below} == {"frame" if name[0] == "5" else "epoch"}
        assert all(axes.get_ylabel().endswith(units[name[0]]) for axes in left), name


def test_labels_name_only_what_differed_and_had_an_effect(tmp_path):
    base = dict(PRESETS["demo"], num_epoch=2)
    a = load_run(_write_run(tmp_path / "a", Config(**base, run_dir="a")))
    b = load_run(_write_run(tmp_path / "b", Config(**base, run_dir="b", width=32, kl_anneal_cycle=3, tfr_sde=5)))
    assert labels([a, b]) == ["width 24", "width 32"]  # cycles without Cyclical and a decay of 0 had no effect
    assert labels([a, a]) == ["", ""]
    assert [row[1] for row in table([a, dataclasses.replace(a, name="a2")])[1]] == ["a", "a2"]


def test_data_sets_and_runs_of_one_name_are_told_apart(tmp_path, unrendered):
    base = dict(PRESETS["demo"], num_epoch=2)
    folders = [_write_run(tmp_path / where / "demo-1", Config(**base, data_dir=f"/{where}/LAB")) for where in "xy"]
    compare([*folders, folders[0]], tmp_path / "out")  # one of them twice
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert [(row["run"], row["settings"]) for row in rows] == [("x/demo-1", "/x/LAB"), ("y/demo-1", "/y/LAB")]


@pytest.fixture(scope="module")
def seeded_runs(tmp_path_factory):
    """Three seeds without, and two seeds with teacher forcing; PSNR and loss are moved by the last number."""
    root = tmp_path_factory.mktemp("seeds")
    return [load_run(_write_run(root / f"{tfr}-{seed}", dataclasses.replace(STUDY, tfr=tfr, seed=seed), offset=offset))
            for tfr, seed, offset in [(0.0, 0, 0.0), (0.0, 1, 1.0), (0.0, 2, 5.0), (0.5, 8, 2.0), (0.5, 9, 2.5)]]


def test_the_scores_of_runs_that_differ_in_the_seed_only_are_gathered(seeded_runs):
    groups = by_seed(seeded_runs)
    assert [[run.name for run in group.runs] for group in groups] == [["0.0-0", "0.0-1", "0.0-2"], ["0.5-8", "0.5-9"]]
    _, rows = seeds_table(groups, ["free", "forced"])
    # The best validations are 20, 21 and 25 dB: the sample's variance is (4 + 1 + 9) / 2. The last are 14.4 dB lower.
    assert rows == [["free", 3, "22.00", "20.00", "25.00", "2.65", "7.60", "5.60", "10.60", "2.65"],
                    ["forced", 2, "22.25", "22.00", "22.50", "", "7.85", "7.60", "8.10", ""]]
    said = verdict(groups, ["free", "forced"])
    assert "is forced: 22.25 dB PSNR (mean of 2 seeds, from 22.00 to 22.50)" in said and "ranges overlap" in said
    assert "next is free: 22.00 dB PSNR (mean of 3 seeds, from 20.00 to 25.00), 0.25 dB lower" in said
    assert "do not overlap" in verdict([groups[1], *by_seed(seeded_runs[:1])], ["forced", "free"])


def test_a_verdict_says_where_scores_prove_nothing(seeded_runs, tmp_path):
    one, other = by_seed([seeded_runs[0]]) + by_seed([seeded_runs[3]])
    assert "2.00 dB lower; with one seed each" in verdict([one, other], ["free", "forced"])
    epochs = seeded_runs[3].epochs | {"val_psnr_copy_first": seeded_runs[3].epochs["val_psnr_copy_first"] + 1}
    moved = by_seed([dataclasses.replace(seeded_runs[3], epochs=epochs)])
    assert "do not compare" in verdict([one, *moved], ["free", "forced"])
    assert verdict([one], ["free"]) == "Best is free: 20.00 dB PSNR."
    begun = by_seed([load_run(_write_run(tmp_path / "begun", STUDY, 1))])
    assert "No run" in verdict(begun, ["begun"]) and "is free:" in verdict([*begun, one], ["begun", "free"])


def test_curves_of_seeds_are_their_mean_and_range(seeded_runs):
    figure = figures(seeded_runs)["2_validation_psnr_by_teacher_forcing"]
    axes, parabola = figure.axes[0], np.array([20 - (epoch - 1 - 7) ** 2 / 10 for epoch in range(2, 21, 2)])
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["tfr 0.0", "copy-first", "tfr 0.5"]  # no label names a seed
    np.testing.assert_allclose(lines["tfr 0.0"].get_ydata(), parabola + 2)
    np.testing.assert_allclose(lines["tfr 0.5"].get_ydata(), parabola + 2.25)
    assert len(axes.collections) == 2  # copy-first has no band
    for band, label, low, high in zip(axes.collections, ("tfr 0.0", "tfr 0.5"), (0, 2), (5, 2.5), strict=True):
        (path,) = band.get_paths()
        edges = {x: path.vertices[path.vertices[:, 0] == x, 1] for x in range(2, 21, 2)}
        np.testing.assert_allclose([[min(edges[x]), max(edges[x])] for x in edges],
                                   np.transpose([parabola + low, parabola + high]))
        np.testing.assert_allclose(band.get_facecolor()[0, :3], to_rgb(lines[label].get_color()))


def test_a_mean_ends_where_the_first_of_its_runs_has_stopped(tmp_path):
    runs = [load_run(_write_run(tmp_path / f"s{seed}", dataclasses.replace(STUDY, seed=seed), epochs, offset=seed))
            for seed, epochs in ((0, 20), (1, 5))]
    (panel,) = _drawn(figures(runs)["6_mse"]).values()
    x, y = panel["2 seeds"]
    assert x == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(y, [1 / epoch + 0.5 for epoch in x])


def test_equal_runs_of_one_seed_stay_apart(tmp_path):
    runs = [load_run(_write_run(tmp_path / name, STUDY)) for name in "ab"]
    other = load_run(_write_run(tmp_path / "c", dataclasses.replace(STUDY, lr=0.5, seed=1)))
    assert [len(group.runs) for group in by_seed([*runs, other])] == [1, 1, 1]
    assert labels(by_seed([*runs, other])) == labels([*runs, other])


def test_runs_that_differ_in_the_seed_get_a_second_table(seeded_runs, tmp_path, unrendered, capsys):
    folders = [run.path for run in seeded_runs]
    compare(folders, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "seeds.csv").read_text().splitlines()))
    assert [(row["settings"], row["n"], row["best_sd"]) for row in rows] == [
        ("tfr 0.0", "3", "2.65"), ("tfr 0.5", "2", "")]
    text = capsys.readouterr().out
    assert (tmp_path / "out" / "seeds.md").read_text() in text and "Best is tfr 0.5" in text
    compare(folders[2:4], tmp_path / "out")  # replaces the comparison with one of one seed each
    names = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert names == ["report.html", "table.csv", "table.md"]


def test_ticks_of_a_logarithmic_axis_are_plain_numbers_and_each_column_has_an_axis(study_runs):
    more = dataclasses.replace(study_runs[0], config=dataclasses.replace(study_runs[0].config, kl_anneal_cycle=3))
    figure = figures([*study_runs, more])["1_training_loss_by_teacher_forcing"]
    figure.canvas.draw()
    ticks = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels(which="both")]
    assert "1" in ticks and all(text == "" or float(text) > 0 for text in ticks)
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_visible()] == ["", "epoch", "epoch", "epoch"]


def test_schedules_of_other_lengths_are_both_drawn(tmp_path):
    runs = [load_run(_write_run(tmp_path / str(n), dataclasses.replace(STUDY, num_epoch=n))) for n in (10, 20)]
    (beta,) = _drawn(figures(runs)["4_beta"]).values()
    assert {name: y for name, (_, y) in beta.items()} == {f"num_epoch {n}": beta_table("Cyclical", n, 7, 1.0)
                                                          for n in (10, 20)}


def test_a_run_called_like_a_curve_or_with_a_dollar_is_drawn_as_any(tmp_path):
    folders = [_write_run(tmp_path / name, STUDY) for name in ("prior", "a$_$b")]
    figure = figures([load_run(folder) for folder in folders])["5_psnr_per_frame"]
    assert plots.png(figure)[:4] == b"\x89PNG"
    lines = figure.axes[0].get_lines()
    widths = {line.get_label(): line.get_linewidth() for line in lines}
    assert min(widths["prior"], widths["a$_$b"]) > widths["copy-first"]


def test_runs_of_other_lengths_networks_and_unfinished_ones_compare(tmp_path, unrendered):
    runs = [_write_run(tmp_path / "long", STUDY),
            _write_run(tmp_path / "short", dataclasses.replace(STUDY, tfr=0.5), 3),
            _write_run(tmp_path / "begun", dataclasses.replace(STUDY, tfr=0.0), 1),
            _write_run(tmp_path / "lab", Config(**{**PRESETS["lab"], "preset": "lab", "num_epoch": 4}))]
    compare(runs, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
    assert [(row["run"], row["epochs"], row["of"]) for row in rows] == [
        ("long", "20", "20"), ("short", "3", "20"), ("begun", "1", "20"), ("lab", "4", "4")]
    assert rows[2]["final_psnr_prior"] == "" and rows[2]["best_epoch"] == ""
    assert "tfr 0.5" in rows[1]["settings"] and "lab" in rows[3]["settings"]


def _stop(folder, epochs, prior):
    """What a stop by ``--max_minutes`` leaves."""
    folders = RunFolders(folder)
    write_csv(folders.stopped, ["epochs", "val_psnr_prior", "val_psnr_posterior", "val_psnr_copy_first"],
              [[epochs, prior, 27.5, 16.25]])
    folders.checkpoints.mkdir()
    (folders.checkpoints / "step_00000003.npz").touch()
    return folder


def test_a_stopped_run_is_shown_with_the_validation_that_it_printed(tmp_path, unrendered):
    within = _stop(_write_run(tmp_path / "within", STUDY, epochs=4), 4.5, 26.5)  # validated after 2 and 4 epochs
    first = _stop(_write_run(tmp_path / "first", dataclasses.replace(STUDY, tfr=0.5)), 0.25, 12.5)
    early = _stop(_write_run(tmp_path / "early", dataclasses.replace(STUDY, tfr=0.0)), 0.25, 12.5)
    RunFolders(first).metrics.unlink()
    for path in (RunFolders(early).metrics, RunFolders(early).stopped):  # by Ctrl-C: without a validation
        path.unlink()
    runs = [load_run(folder) for folder in (within, first, early)]
    header, rows = table(runs)
    names = ("epochs", "final_loss", "final_psnr_prior", "final_psnr_posterior", "best_psnr_prior", "best_epoch",
             "psnr_copy_first", "minutes")
    shown = [[str(dict(zip(header, row, strict=True))[name]) for name in names] for row in rows]
    assert shown[0] == ["4", shown[0][1], "26.50", "27.50", "26.50", "4.5", "16.25", "0.4"] and shown[0][1]
    assert shown[1] == ["0", "", "12.50", "27.50", "12.50", "0.25", "16.25", "0.0"]
    assert shown[2] == ["0", *[""] * 6, "0.0"]
    made = figures(runs)
    lines = {label: line for panel in _drawn(made["2_validation_psnr_by_teacher_forcing"]).values()
             for label, line in panel.items() if label != "copy-first"}
    assert {tuple(x) for x, _ in lines.values()} == {(2, 4, 4.5), (0.25,)}
    assert {label for panel in _drawn(made["6_mse"]).values() for label in panel} == {"tfr 1.0"}
    compare([within, first, early], tmp_path / "out")
    compare([early], tmp_path / "alone")
    assert (tmp_path / "alone" / "table.csv").is_file()


def test_table_has_final_and_best_numbers(study_runs):
    header, rows = table(study_runs)
    first = dict(zip(header, rows[0], strict=True))
    assert first["best_epoch"] == "8" and first["best_psnr_prior"] == "20.00"  # the parabola's top, epoch 7 from 0
    assert first["final_psnr_prior"] == f"{20 - 12 ** 2 / 10:.2f}" and first["minutes"] == "2.0"
    assert first["final_mse"] == "0.05" and first["psnr_copy_first"] == "16.00"


def test_comparison_is_written_whole_as_a_page_png_and_pdf(study_folders, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.csv").write_text("an earlier comparison, to be replaced")
    compare(study_folders[:2], tmp_path / "out")
    names = sorted(path.stem for path in (tmp_path / "out").glob("*.png"))
    assert len(names) == 9 and names == sorted(path.stem for path in (tmp_path / "out").glob("*.pdf"))
    assert (tmp_path / "out" / names[0]).with_suffix(".pdf").read_bytes()[:5] == b"%PDF-"
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    page = (tmp_path / "out" / "report.html").read_text()
    texts = [element.text for svg in re.findall("<svg.*?</svg>", page, re.S)
             for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert {"training loss", "validation PSNR (dB)", "epoch", "0.1"} <= {*texts}
    assert not [text for text in texts if "$" in text or "\\" in text]  # ticks are no formulas
    winner = re.search('<tr class="lead"><td>(.*?)</td>', page)[1]
    assert page.index(f"Best is {winner}: ") < page.index("<table>") < page.index("<svg") < page.index("<details>")


def test_what_is_no_run_is_refused_and_nothing_is_written(study_folders, tmp_path):
    def refused(message, *runs, out=tmp_path / "out"):
        with pytest.raises(InputError, match=message):
            compare(runs, out)
        assert not (tmp_path / "out").exists()

    (tmp_path / "folder").mkdir()
    refused("folder: no config.json in this folder", study_folders[0], tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text(STUDY.to_json())
    refused("no metrics.csv and no checkpoint in this folder", tmp_path / "folder")
    (tmp_path / "folder" / "metrics.csv").write_text("epoch,loss\n0,1\n")
    refused("holds no rows with the columns", tmp_path / "folder")
    write_csv(tmp_path / "folder" / "metrics.csv", COLUMNS, [["x"] * len(COLUMNS)])
    refused("a cell must hold a number or nothing", tmp_path / "folder")
    (tmp_path / "folder" / "metrics.csv").write_text(",".join(COLUMNS) + "\n1,2\n")
    refused("metrics.csv: line 2 ", tmp_path / "folder")
    refused("is no earlier comparison", study_folders[0], out=tmp_path / "folder")
    refused("--out .*contains RUN", study_folders[0], out=study_folders[0].parent)
    (tmp_path / "mine").mkdir()
    for name in ("table.csv", "thesis.txt"):
        (tmp_path / "mine" / name).write_text("mine")
    refused("with the thesis.txt in it", study_folders[0], out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"


def test_panels_fall_back_to_one_where_the_factor_does_not_tell_runs_apart(study_runs):
    same = [study_runs[0], dataclasses.replace(study_runs[0], name="again")]
    for factor in (FORCING, ANNEALING):
        panels = panels_by(factor, same, lambda run, label: [Line(label, [1], [1])])
        assert {title: [line.label for line in lines] for title, lines in panels.items()} == {
            "": [study_runs[0].name, "again"]}


def test_a_label_looks_alike_in_all_panels_and_comes_once_in_the_legend():
    panels = {"a": [Line("x", [1, 2], [1, 2]), Line("y", [1, 2], [2, 1])], "b": [Line("y", [1, 2], [3, 4])]}
    figure = line_figure(panels, "epoch", "dB")
    first, second = figure.axes
    styles = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in first.get_lines()}
    assert styles["y"] == (second.get_lines()[0].get_color(), second.get_lines()[0].get_linestyle()) != styles["x"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y"]
    assert plots.png(figure)[:4] == b"\x89PNG"


def test_comparing_needs_no_tensorflow():
    code = "import sys, cvae_tf.experiments.compare, cvae_tf.experiments.study; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
