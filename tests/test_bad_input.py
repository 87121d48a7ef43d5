"""What can be wrong with what a user gives: each case ends with exit code 2 and one line that says so."""

import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, image_tree
from PIL import Image

from cvae_tf.config import Config
from cvae_tf.inference.exported_model import write_owner
from cvae_tf.training.checkpoint import CheckpointFolder

STUDIO = ROOT / "saved_models" / "studio"


def _refused(ended, message):
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.code == 2 and len(lines) == 1, ended.err
    assert "Traceback" not in ended.err
    assert re.search(message, lines[0]), lines[0]


def _files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.name != "lock")


# ---------------------------------------------------------------------- flags of training

FLAGS = [
    (["--preset", "nonsense"], "--preset must be one of demo, debug"),
    (["--nonsense", "1"], "unrecognized arguments: --nonsense 1; see .* train --help"),
    (["--num_ep", "3"], "unrecognized arguments: --num_ep 3"),
    (["extra"], "unrecognized arguments: extra"),
    (["--lr"], "argument --lr: expected one argument"),
    (["--lr", "fast"], "argument --lr: invalid float value: 'fast'"),
    (["--lr", "nan"], "--lr must be a number that a float32 can hold, received nan"),
    (["--lr", "1e39"], "--lr must be a number that a float32 can hold"),
    (["--lr", "0"], "--lr must be above 0, received 0.0"),
    (["--lr=-1"], "--lr must be above 0"),
    (["--num_epoch", "0"], "--num_epoch must be at least 1, received 0"),
    (["--num_epoch", "1.5"], "invalid int value: '1.5'"),
    (["--num_epoch", "1000000000000"], "--num_epoch must be at most 10000"),
    (["--steps_per_epoch=-1"], "--steps_per_epoch must be at least 0"),
    (["--batch_size", "0"], "--batch_size must be at least 1"),
    (["--batch_size", "1000000"], "--batch_size must be at most"),
    (["--train_vi_len", "1"], "--train_vi_len must be at least 2"),
    (["--val_vi_len", "1"], "--val_vi_len must be at least 2"),
    (["--val_every", "0"], "--val_every must be at least 1"),
    (["--max_minutes=-1"], "--max_minutes must be at least 0"),
    (["--checkpoint_minutes=-1"], "--checkpoint_minutes must be at least 0"),
    (["--max_frames=-1"], "--max_frames must be at least 0"),
    (["--tfr", "1.5"], "--tfr must be at most 1"),
    (["--tfr_d_step=-0.1"], "--tfr_d_step must be at least 0"),
    (["--tfr_draw", "sometimes"], "--tfr_draw: .*|--tfr_draw must be one of batch, epoch, frame"),
    (["--partial", "0"], "--partial must be above 0"),
    (["--fast_partial", "2"], "--fast_partial must be at most 1"),
    (["--frame_H", "33"], "needs a frame height and width that 8 divides, received 33x64"),
    (["--frame_W", "4096"], "--frame_W must be at most 1024"),
    (["--width", "100000"], "--width must be at most 512"),
    (["--network", "gan"], "--network must be one of unet, lab"),
    (["--network", "lab", "--prior", "learned"], "--prior learned needs --network unet; the lab's network has N"),
    (["--network", "lab", "--F_dim", "4"], "--F_dim must be at least 8 with --network lab"),
    (["--kl_anneal_type", "Sometimes"], "--kl_anneal_type must be one of Cyclical, Monotonic, WithoutKL"),
    (["--kl_anneal_ratio=-1"], "--kl_anneal_ratio must be at least 0"),
    (["--kl_anneal_cycle", "0"], "--kl_anneal_cycle must be at least 1"),
    (["--clip_norm", "0"], "--clip_norm must be above 0"),
    (["--weight_decay", "inf"], "--weight_decay must be a number that a float32 can hold"),
    (["--optim", "SGD"], "--optim must be one of Adam, AdamW"),
    (["--seed=-1"], "--seed must be at least 0"),
    (["--seed", "2147483648"], "--seed must be at most 2147483647"),
    (["--studio_sequences", "0"], "--studio_sequences must be at least 1"),
    (["--fresh"], "--fresh needs the --run_dir"),
]


@pytest.mark.parametrize("words, message", FLAGS, ids=[" ".join(words) for words, _ in FLAGS])
def test_flags_of_training(words, message, end_of, tmp_path):
    _refused(end_of("train", *words), message)
    assert _files(tmp_path) == []


# ---------------------------------------------------------------------- data folders

def _bomb(path):
    """A PNG file that says it has 20,000 x 20,000 pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000)))
                     + chunk(b"IEND", b""))


def _animation(path):
    pictures = [Image.new("RGB", (64, 32), (n, n, n)) for n in range(3)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


FRAME, POSE = "train/train_img/frame005.png", "train/train_label/frame005.png"
DATA = {
    "missing": (lambda root: shutil.rmtree(root), "train_img: no such folder"),
    "a file": (lambda root: (shutil.rmtree(root), root.write_text("x")), "train_img: no such folder"),
    "without validation": (lambda root: shutil.rmtree(root / "val"), "val_img: no such folder"),
    "empty": (lambda root: [p.unlink() for p in (root / "train/train_img").iterdir()], "train_img: no PNG images"),
    "without pose": (lambda root: (root / POSE).unlink(), "train_img/frame005.png: this frame has no pose"),
    "duplicate numbers": (lambda root: shutil.copy(root / FRAME, root / "train/train_img/f5.png"),
                          "(f5|frame005).png and (f5|frame005).png have the same number"),
    "no number": (lambda root: (root / FRAME).rename(root / "train/train_img/frame.png"),
                  "frame.png: the name holds no number"),
    "hidden files only": (lambda root: [p.rename(p.with_name("." + p.name))
                                        for p in (root / "train/train_img").iterdir()], "no PNG images"),
    "symlink loop": (lambda root: ((root / FRAME).unlink(), (root / FRAME).symlink_to("frame005.png")),
                     "frame005.png: is not a readable file"),
    "broken link": (lambda root: ((root / FRAME).unlink(), (root / FRAME).symlink_to("nowhere")),
                    "frame005.png: is not a readable file"),
    "folder loop": (lambda root: (shutil.rmtree(root / "train/train_img"),
                                  (root / "train/train_img").symlink_to("train_img")), "train_img: no such folder"),
    "pipe": (lambda root: ((root / FRAME).unlink(), os.mkfifo(root / FRAME)), "is not a readable file"),
    "folder in place of an image": (lambda root: ((root / FRAME).unlink(), (root / FRAME).mkdir()),
                                    "is not a readable file"),
    "zero bytes": (lambda root: (root / FRAME).write_bytes(b""), "frame005.png: not a readable image"),
    "truncated": (lambda root: (root / FRAME).write_bytes((root / FRAME).read_bytes()[:-30]),
                  "frame005.png: not a readable image"),
    "truncated pose": (lambda root: (root / POSE).write_bytes((root / POSE).read_bytes()[:45]),
                       "train_label/frame005.png: not a readable image"),
    "text": (lambda root: (root / FRAME).write_text("no image"), "neither a PNG nor a JPEG file"),
    "PostScript": (lambda root: (root / FRAME).write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 32\n"),
                   "neither a PNG nor a JPEG file"),
    "GIF": (lambda root: Image.new("RGB", (64, 32)).save(root / FRAME, format="GIF"), "neither a PNG nor a JPEG file"),
    "animation": (lambda root: _animation(root / FRAME), "an animation of 3 images"),
    "1x1": (lambda root: Image.new("RGB", (1, 1)).save(root / FRAME), "1x1 pixels are fewer than the model's 64x32"),
    "decompression bomb": (lambda root: _bomb(root / FRAME), "frame005.png: not a readable image .*bomb"),
    "two sizes": (lambda root: Image.new("RGB", (128, 64)).save(root / FRAME),
                  "128x64 pixels; expected 64x32, as the first image"),
    "poses of another shape": (lambda root: [Image.new("RGB", (64, 64)).save(p)
                                             for p in (root / "train/train_label").iterdir()],
                               "64x64 pixels are not of the shape of the frames, 64x32"),
    "too few for a clip": (lambda root: [p.unlink() for p in sorted((root / "train/train_img").iterdir())[5:]],
                           "too short: a clip has 8 frames, and the longest .* has 5"),
    "one validation frame": (lambda root: [p.unlink() for p in sorted((root / "val/val_img").iterdir())[1:]],
                             "validation needs at least 2 frames"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_folders(case, end_of, tmp_path):
    spoil, message = DATA[case]
    spoil(image_tree(tmp_path / "data"))
    before = _files(tmp_path)
    _refused(end_of("train", "--preset", "debug", "--data_dir", "data"), message)
    assert [path for path in _files(tmp_path) if ".cvae_tf_cache" not in str(path)] == before


@pytest.fixture
def nobody():
    """Rights of another user than root, for whom all files are readable."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


def test_an_image_without_permission(end_of, tmp_path, request):
    (image_tree(tmp_path / "data") / FRAME).chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    request.getfixturevalue("nobody")
    _refused(end_of("train", "--preset", "debug", "--data_dir", "data"), "frame005.png: .*ermission denied")


def test_a_folder_that_cannot_be_written(end_of, tmp_path, request):
    (tmp_path / "runs").mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    request.getfixturevalue("nobody")
    _refused(end_of("train", "--preset", "debug", "--export_dir", "/tmp/model"),
             "runs/debug-1: cannot be made .Permission denied.; choose another --run_dir")


# ---------------------------------------------------------------------- runs

def _run(root, **options):
    config = Config(preset="debug", run_dir="run", export_dir="model", **options)
    root.mkdir()
    (root / "config.json").write_text(config.to_json())
    return config


def _checkpoints(root, damaged):
    CheckpointFolder(root / "checkpoints").save(3, {"x": np.zeros(100)})
    if damaged:
        path = root / "checkpoints" / "step_00000003.npz"
        path.write_bytes(path.read_bytes()[:200])


RUNS = {
    "damaged settings": (lambda root: (_run(root), (root / "config.json").write_text("{\"preset\": ")),
                         [], "config.json: not a configuration of this program .*start over with --fresh"),
    "settings of another program": (lambda root: (_run(root), (root / "config.json").write_text('{"gpus": 8}')),
                                    [], "config.json: not a configuration of this program"),
    "another network": (lambda root: _run(root, width=8), ["--preset", "debug", "--width", "16"],
                        "run was begun with .*--width 8, now 16"),
    "another seed and data": (lambda root: _run(root), ["--preset", "demo", "--seed", "3", "--data_dir", "x"],
                              "begun with --data_dir studio, now x; --seed 0, now 3; give the same"),
    "a file": (lambda root: root.write_text("x"), ["--max_frames", "64"],
               "run: cannot be written .Not a directory.; choose another --run_dir"),
    "checkpoints without settings": (lambda root: (_run(root), _checkpoints(root, False),
                                                   (root / "config.json").unlink()), [],
                                     "config.json: is missing, while there are checkpoints"),
    "checkpoints all damaged": (lambda root: (_run(root, max_frames=64), _checkpoints(root, True)), [],
                                "none of the 1 checkpoints there can be read"),
    "checkpoints of an earlier version": (
        lambda root: (_run(root, max_frames=64), (root / "checkpoints").mkdir(),
                      (root / "checkpoints" / "ckpt-9.index").write_bytes(b"x")), [],
        "none of the 1 checkpoints there can be read.*--fresh"),
    "checkpoint of another version": (lambda root: (_run(root, max_frames=64), _checkpoints(root, False)), [],
                                      "checkpoint at step 3 is of another network or version.*--fresh"),
    "foreign folder": (lambda root: (root.mkdir(), (root / "thesis.txt").write_text("mine")), ["--max_frames", "64"],
                       "run: is no run, and there is thesis.txt in it; choose another --run_dir"),
    "model without checkpoints": (lambda root: (_run(root, max_frames=64), (root / "last_model").mkdir()), [],
                                  "holds no checkpoint, while there is a last_model"),
    "export of another run": (
        lambda root: (_run(root), (root.parent / "model").mkdir(), (root.parent / "model/saved_model.pb").touch(),
                      (root.parent / "model/config.json").write_text(Config(seed=5).to_json())), [],
        "model: holds the model of another run; choose another --export_dir"),
    "fresh over another run's export": (
        lambda root: ((root.parent / "model").mkdir(), (root.parent / "model/saved_model.pb").touch()),
        ["--fresh", "--export_dir", "model", "--max_frames", "64"], "model: holds the model of another run"),
    "deep JSON": (lambda root: (_run(root), (root / "config.json").write_text("[" * 200_000)), [],
                  "config.json: not a configuration of this program"),
    "fresh over a foreign folder": (lambda root: (root.mkdir(), (root / "thesis.txt").write_text("mine")), ["--fresh"],
                                    "run: is no run, so --fresh leaves it alone"),
}


@pytest.mark.parametrize("case", RUNS)
def test_runs(case, end_of, tmp_path):
    make, words, message = RUNS[case]
    make(tmp_path / "run")
    before = _files(tmp_path)
    _refused(end_of("train", "--run_dir", "run", *words), message)
    assert _files(tmp_path) == before


# ---------------------------------------------------------------------- models, and what to predict

def _copy(tmp_path):
    return shutil.copytree(STUDIO, tmp_path / "model")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _unchecked(model, name, size):
    """An older version's model, without checksums, of whose file ``name`` only ``size`` bytes are there."""
    (model / "checksums.txt").unlink()
    (model / name).write_bytes((model / name).read_bytes()[:size])


def _other_program(model):
    shutil.rmtree(model)
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec(())])
    tf.saved_model.save(module, str(model), signatures=module.double)


WEIGHTS = "variables/variables.data-00000-of-00001"
MODELS = {
    "missing": (shutil.rmtree, "model: no SavedModel in this folder; train one"),
    "a file": (lambda model: (shutil.rmtree(model), model.write_text("x")), "model: no SavedModel in this folder"),
    "half copied": (lambda model: shutil.rmtree(model / "variables"), "variables.index|variables.data.* is missing"),
    "damaged weights": (lambda model: _flip(model / WEIGHTS), "variables.data.*: is damaged .its checksum differs"),
    "damaged graph": (lambda model: _flip(model / "saved_model.pb"), "saved_model.pb: is damaged"),
    "empty checksums": (lambda model: (model / "checksums.txt").write_text(""), "checksums.txt: is empty"),
    "damaged checksums": (lambda model: (model / "checksums.txt").write_bytes(b"\xff\xfe"), "cannot be read"),
    "older, graph cut": (lambda model: _unchecked(model, "saved_model.pb", 1000), "the SavedModel cannot be loaded"),
    "older, weights cut": (lambda model: _unchecked(model, WEIGHTS, 1000), "the SavedModel cannot be loaded"),
    "older, empty graph": (lambda model: _unchecked(model, "saved_model.pb", 0), "the SavedModel cannot be loaded"),
    "of another program": (_other_program, "has no signature 'generate'"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models(case, end_of, tmp_path):
    spoil, message = MODELS[case]
    spoil(_copy(tmp_path))
    before = _files(tmp_path)
    _refused(end_of("predict", "--model", "model"), message)
    assert _files(tmp_path) == before


TREE = ["--poses", "data/val/val_label"]
PREDICTIONS = [
    (["--output", "film.avi"], "--output must end in .gif, .*film.avi"),
    (["--output", "data.gif"], "data.gif: is a folder; choose another --output"),
    (["--output", "data/val/val_img/frame001.png/x.gif"], "cannot be written, because of .*frame001.png"),
    (["--seed=-1"], "--seed must be from 0 to 2147483647"),
    (["--seed", "2147483647", "--samples", "2"], "--seed must be from 0 to 2147483646"),
    (["--samples", "0"], "--samples must be from 1 to 64"),
    (["--temperature", "nan"], "--temperature must be from 0 to 100"),
    (["--fps", "0"], "--fps must be from 1 to 50"),
    (["--scale", "1000"], "--scale must be from 1 to 32"),
    (["--first_frame", "x.png"], "--first_frame and --truth need --poses FOLDER"),
    (["--poses", "nowhere"], "nowhere: no such folder"),
    ([*TREE, "--first_frame", "nowhere.png"], "nowhere.png: not a readable image"),
    ([*TREE, "--first_frame", "data"], "data: not a readable image"),
    ([*TREE, "--truth", "short"], "short: no true frame frame003.png for the pose of that name"),
    (["--poses", "empty", "--truth", "short"], "empty: no PNG images in this folder"),
    (["--poses", "nowhere", "--truth", "short"], "nowhere: no such folder"),
    (["--poses", "one", "--truth", "data/val/val_img"], "only pose is the first frame's own"),
    (["--poses", "small", "--truth", "small"], "frame000.png: 32x16 pixels are fewer than the model's 128x64"),
    ([*TREE, "--first_frame", "pipe.png"], "pipe.png: not a readable image .not a plain file"),
    ([*TREE, "--truth", "data/val/val_img", "--output", "data/val/val_img/frame001.gif"],
     "--output .*frame001.gif: lies in --truth data/val/val_img.*choose another --output"),
    (["--data_dir", "data", "--split", "val", "--out", "data/val/val_img/frame001.png"],
     "--out .*frame001.png/pred_seq.gif: lies in --data_dir data"),
    (["--data_dir", "data", "--output", "x.gif"], "--output cannot be given with --data_dir"),
    (["--data_dir", "data"], "data/test: no such folder"),
]


@pytest.mark.parametrize("words, message", PREDICTIONS, ids=[" ".join(words) for words, _ in PREDICTIONS])
def test_predictions(words, message, end_of, tmp_path):
    root = image_tree(tmp_path / "data", size=(128, 64))
    for folder, count in (("short", 3), ("one", 1), ("empty", 0)):
        (tmp_path / folder).mkdir()
        for n in range(count):
            shutil.copy(root / f"val/val_img/frame{n:03d}.png", tmp_path / folder)
    (tmp_path / "data.gif").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "small").mkdir()
    for n in range(3):
        Image.new("RGB", (32, 16)).save(tmp_path / "small" / f"frame{n:03d}.png")
    before = _files(tmp_path)
    _refused(end_of("predict", "--model", STUDIO, *words), message)
    assert _files(tmp_path) == before


# ---------------------------------------------------------------------- outputs

def _made_run(root, export, **settings):
    """The folder of a run, and its exported model, as training leaves them."""
    (root / "checkpoints").mkdir(parents=True)
    (root / "config.json").write_text(Config(preset="debug", export_dir=str(export), **settings).to_json())
    (root / "lock").write_text("0123456789abcdef\n")
    (root.parent / export).mkdir(parents=True)
    (root.parent / export / "saved_model.pb").touch()
    write_owner(root.parent / export, "0123456789abcdef", finished=False)


DEBUG = ["train", "--preset", "debug"]
SHIPPED = ["--model", STUDIO]
OVERLAPS = [
    ([*DEBUG, "--run_dir", "saved_models/q3"], "--export_dir .*: is the same as --run_dir"),
    ([*DEBUG, "--run_dir", "exp/run", "--export_dir", "exp"], "--export_dir exp: contains --run_dir exp/run"),
    ([*DEBUG, "--run_dir", "exp", "--export_dir", "exp/checkpoints"], "--export_dir .*: lies in --run_dir exp"),
    ([*DEBUG, "--run_dir", "exp", "--export_dir", "exp/../exp"], "--export_dir .*: is the same as --run_dir exp"),
    ([*DEBUG, "--run_dir", "exp", "--export_dir", "alias/exp"], "--export_dir alias/exp: is the same as --run_dir exp"),
    ([*DEBUG, "--run_dir", "run", "--export_dir", "run/samples"], "--export_dir run/samples: lies in --run_dir run"),
    ([*DEBUG, "--run_dir", "run/x", "--export_dir", "y"], "--run_dir run/x: would be written into the run"),
    ([*DEBUG, "--run_dir", "x", "--export_dir", "model/y"], "--export_dir .* into the exported model"),
    ([*DEBUG, "--data_dir", "data", "--run_dir", "data/run"], "--run_dir data/run: lies in --data_dir data"),
    ([*DEBUG, "--data_dir", ".", "--run_dir", "x"], "--run_dir x: lies in --data_dir ."),
    ([*DEBUG, "--data_dir", "data", "--export_dir", "data"], "--export_dir data: is the same as --data_dir data"),
    ([*DEBUG, "--init_from", "model", "--export_dir", "model"], "--export_dir model: is the same as --init_from model"),
    ([*DEBUG, "--init_from", "exp/model", "--export_dir", "exp"], "--export_dir exp: contains --init_from exp/model"),
    ([*DEBUG, "--run_dir", ".cvae_tf_cache"], "--run_dir .*: .cvae_tf_cache is a name that the program uses itself"),
    ([*DEBUG, "--export_dir", "models/.x.77.tmp"], ".x.77.tmp is a name that the program uses itself"),
    ([*DEBUG, "--export_dir", ".x.7.old/y"], ".x.7.old is a name that the program uses itself"),
    ([*DEBUG, "--export_dir", ".x.lock"], ".x.lock is a name that the program uses itself"),
    ([*DEBUG, "--export_dir", "link"], "link: is a link, which would be replaced"),
    ([*DEBUG, "--export_dir", "dangling"], "dangling: is a link, which would be replaced"),
    ([*DEBUG, "--export_dir", "mine.txt"], "mine.txt: is no folder"),
    ([*DEBUG, "--export_dir", "pipe"], "pipe: is no folder"),
    ([*DEBUG, "--run_dir", "new", "--export_dir", "model"], "model: belongs to another run than new"),
    ([*DEBUG, "--run_dir", "run", "--fresh", "--export_dir", "others"], "others: belongs to another run than run"),
    (["study", "--out", "data"], "data: is no study"),
    (["study", "--out", "new", "--tfr", "0.5", "2"], "--tfr must be at most 1, received 2"),
    (["study", "--out", "new", "--seed", "1", "1"], "--seed: 1 is given twice"),
    (["study", "--out", "data", "--schedules", "--data_dir", "data"], "--out data: is the same as --data_dir data"),
    (["study", "--out", ".", "--schedules", "--data_dir", "elsewhere"], "--out .: contains --data_dir elsewhere"),
    (["study", "--out", "data/s", "--data_dir", "data"], "--out data/s: lies in --data_dir data"),
    (["compare", "run", "--out", "run/plots"], "--out run/plots: lies in RUN run"),
    (["compare", "run", "--out", "run"], "--out run: is the same as RUN run"),
    (["studio", "run/x"], "OUT run/x: would be written into the run"),
    (["studio", ".x.lock"], ".x.lock is a name"),
    (["import-torch", "x.ckpt", "--out", "model", "--overwrite"], "model: .* with the run.json in it"),
    (["evaluate", *SHIPPED, "--data_dir", "data", "--out", "data/x"], "--out data/x: lies in --data_dir data"),
    (["evaluate", *SHIPPED, "--out", STUDIO], "--out .*: is the same as --model"),
    (["evaluate", *SHIPPED, "--out", "plots"], "plots: is no earlier report"),
    (["predict", *SHIPPED, "--output", "null.gif"], "null.gif: is a link"),
    (["predict", *SHIPPED, "--output", "/dev/null"], "is there already"),
    (["predict", *SHIPPED, "--output", "pipe.gif", "--overwrite"], "pipe.gif: is no plain file"),
    (["predict", *SHIPPED, "--output", "mine.gif"], "mine.gif: exists already, without the mark"),
    (["predict", *SHIPPED, "--output", "table.gif"], "table.csv: exists already, without the mark"),
    (["predict", *SHIPPED, "--output", "plot.gif"], "plot.png: exists already, without the mark"),
    (["predict", *SHIPPED, "--output", "run/samples/epoch_001.gif", "--overwrite"], "would be written into the run"),
    (["predict", *SHIPPED, "--output", f"{STUDIO}/film.gif"], "--output .*: lies in --model"),
    (["predict", *SHIPPED, "--data_dir", "data", "--split", "val", "--csv", "/dev/null"], "null: is no plain file"),
    (["predict", *SHIPPED, "--data_dir", "data", "--split", "val", "--csv", "pipe", "--overwrite"],
     "pipe: is no plain file"),
    (["predict", *SHIPPED, "--data_dir", "data", "--split", "val", "--csv", "data/val/val_img/frame001.png",
      "--overwrite"], "--csv data/val/val_img/frame001.png: lies in --data_dir data"),
    (["predict", *SHIPPED, "--data_dir", "data", "--split", "val", "--csv", "mine.txt"], "mine.txt: exists already"),
    (["predict", *SHIPPED, "--data_dir", "data", "--split", "val", "--out", "films"], "pred_seq.gif: exists already"),
    (["predict", *SHIPPED, "--data_dir", "data", "--split", "val", "--csv", "predictions/pred_seq.gif", "--out",
      "predictions"], "--csv .*: is the same as --out predictions/pred_seq.gif"),
]


def _content(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("words, message", OVERLAPS, ids=[" ".join(map(str, words)) for words, _ in OVERLAPS])
def test_outputs(words, message, end_of, tmp_path):
    image_tree(tmp_path / "data")
    _made_run(tmp_path / "run", "model")
    _made_run(tmp_path / "elsewhere" / "run2", "../others")
    write_owner(tmp_path / "others", "fedcba9876543210", finished=True)
    for name in ("mine.txt", "mine.gif", "table.csv", "plot.png", "films/pred_seq.gif", "plots/psnr.png",
                 "run/samples/epoch_001.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    for name, target in (("link", "data"), ("dangling", "nowhere"), ("null.gif", "/dev/null"), ("alias", ".")):
        (tmp_path / name).symlink_to(target)
    for name in ("pipe", "pipe.gif"):
        os.mkfifo(tmp_path / name)
    before = _content(tmp_path)
    _refused(end_of(*words), message)
    assert _content(tmp_path) == before


def test_what_the_program_made_is_replaced_and_else_only_on_request(end_of, tmp_path):
    tree = image_tree(tmp_path / "data", 3, (128, 64))
    words = ["predict", *SHIPPED, "--data_dir", tree, "--split", "val", "--csv", "x.csv"]
    assert end_of(*words).code == 0
    _refused(end_of(*words), "x.csv: exists already.*--overwrite")  # any program's table looks like this one
    assert end_of(*words, "--overwrite").code == 0
    made = _content(tmp_path / "predictions") | {tmp_path / "x.csv": (tmp_path / "x.csv").read_bytes()}
    for path in made:
        path.write_text("mine")
        _refused(end_of(*words), f"{path.name}: exists already.*--overwrite")
        assert path.read_text() == "mine" and end_of(*words, "--overwrite").code == 0
        assert path.read_bytes() == made[path]
