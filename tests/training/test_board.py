"""What TensorBoard reads of a run, by TensorBoard's own reader."""

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from cvae_tf.config import PRESETS, Config
from cvae_tf.training.board import CHARTS, PSNR, SCALARS, Board

CONFIG = Config(**PRESETS["debug"] | {"preset": "debug", "lr": 0.5, "mirror": True, "val_every": 3, "run_dir": "a|b c"})
GIF = b"GIF89a"


def _session(folder, epochs, config=CONFIG, validated=()):
    """A session that ends after the last of ``epochs``, which count from 0, and then validates the next one."""
    board = Board(folder)
    board.begin(config, epochs.start)
    for epoch in [*epochs, *validated]:
        board.show(epoch, GIF, (64, 388), {name: np.array([20.0, 30.0 + epoch]) for name in PSNR})
        if epoch in epochs:
            board.on_epoch_end(epoch, {name: float(epoch) for name in SCALARS})


def _read(folder):
    return EventAccumulator(str(folder), purge_orphaned_data=False).Reload()  # nothing that is twice is hidden


def _values(events, tag):
    return {event.step: tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run-1") / "tensorboard"
    _session(folder, range(2))
    return _read(folder)


def test_the_film_and_the_psnr_come_first_and_every_tag_is_in_a_group(events):
    shown = [tag for tag in events.Tags()["tensors"] if "/" in tag and not tag.startswith("_")]
    assert sorted(shown)[:2] == ["film/free_running", "psnr/prior"]
    assert {*shown} == {"film/free_running", "psnr_per_frame/curves", "psnr_per_frame/prior", *PSNR.values(),
                        *SCALARS.values()}
    assert sum("learning_rate" in tag for tag in shown) == 1


def test_validations_are_a_film_curves_a_histogram_and_means(events):
    assert _values(events, "film/free_running")[2].tolist() == [b"388", b"64", GIF]
    width, height, png = _values(events, "psnr_per_frame/curves")[1]
    assert tf.io.decode_png(png).shape == (int(height), int(width), 4)
    assert _values(events, "psnr_per_frame/prior")[1][:, 2].sum() == 2  # of two frames
    assert {step: value.item() for step, value in _values(events, "psnr/prior").items()} == {1: 25.0, 2: 25.5}


def test_the_custom_page_has_charts_of_tags_that_are_written(events):
    page = layout_pb2.Layout.FromString(_values(events, "custom_scalars__config__")[0].item())
    charts = {chart.title: list(chart.multiline.tag) for chart in page.category[0].chart}
    assert charts == {title: [tags] for title, tags in CHARTS.items()}
    found = {title: [tag for tag in events.Tags()["tensors"] if tf.strings.regex_full_match(tag, f"{tags}.*")]
             for title, tags in CHARTS.items()}
    assert [len(tags) for tags in found.values()] == [3, 4, 1, 1, 1]


def test_the_settings_that_matter_are_hyperparameters_and_all_are_text(events):
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content)
    assert found.group_name.startswith("run-1") and found.hparams["lr"].number_value == 0.5
    assert found.hparams["mirror"].bool_value and not {"val_every", "run_dir", "frame_H"} & found.hparams.keys()
    command = _values(events, "command")[0].item().decode()
    assert command.split("--", 1)[1] == "preset debug --run_dir 'a|b c' --val_every 3 --mirror --lr 0.5"
    table = _values(events, "configuration")[0].item().decode()
    assert " a/b c |" in table and table.count("\n") == 2 + len(Config.__dataclass_fields__)


def test_a_continued_run_has_each_epoch_once_and_its_last_settings(tmp_path):
    _session(tmp_path, range(3), validated=[3])  # killed after its third epoch; saved after its second
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])  # the last event is torn
    _session(tmp_path, range(2, 4), Config(lr=0.25))
    events = _read(tmp_path)
    assert {tag: list(_values(events, tag)) for tag in [*PSNR.values(), *SCALARS.values(), "film/free_running"]} == (
        dict.fromkeys([*PSNR.values(), *SCALARS.values(), "film/free_running"], [1, 2, 3, 4]))
    assert "--lr 0.25" in _values(events, "command")[0].item().decode() and len(events.Tensors("command")) == 1
    assert len(list(tmp_path.iterdir())) == 2
