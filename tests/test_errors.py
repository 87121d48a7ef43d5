"""The one line that a user reads: names from anywhere, and the cause of an error inside TensorFlow."""

import io
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, image_tree

from cvae_tf import cli, errors
from cvae_tf.config import Config
from cvae_tf.errors import InputError, in_plain_words, printable

# ---------------------------------------------------------------------- text

NAMES = {"new line": "a\nerror: all is lost", "return": "a\rb", "escape": "\x1b[2J\x1b[31mred", "bell": "\x07",
         "C1 control": "\x9b31m", "right to left": "\u202egpj.exe", "isolate": "\u2066x", "zero width": "a\u200bb",
         "line separator": "a\u2028b", "no UTF-8": os.fsdecode(b"fr\xffme"), "null": "a\0b"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_message_shows_what_is_no_text_by_its_codes(name):
    error = InputError(InputError(f"{name}: no such file"))
    line = str(error)
    assert line.isprintable() and line.endswith(": no such file")
    line.encode("utf-8")
    assert line.removesuffix(": no such file").encode().decode("unicode_escape") == name  # nothing is lost


def test_other_text_stays_as_it_is():
    for text in ("Zoë läuft/frame 1.png", "日本語", "C:\\new\\x", "🎬", "it's 100% \"fine\""):
        assert str(InputError(text)) == text


def test_a_long_name_loses_its_middle():
    line = printable("begin" + "x" * 10**6 + "end")
    assert len(line) == errors.LONGEST and line.startswith("begin") and line.endswith("end") and " ... " in line


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_no_output_fails_for_a_name_that_it_cannot_show(encoding, monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])

    def program():
        print(NAMES["no UTF-8"], "日")
        raise InputError(NAMES["no UTF-8"] + "日")

    with pytest.raises(SystemExit) as ended:
        errors.run(program)
    assert ended.value.code == 2
    for stream in streams:
        stream.flush()
        assert b"fr\\udcffme" in stream.buffer.getvalue()


def _commands():
    """Every flag and place of every command that takes a value."""
    seen = []

    def words(parser, args, namespace=None):
        seen.append(parser)
        raise InputError("seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli._Parser, "parse_known_args", words)
        for command in cli.COMMANDS:
            with pytest.raises(InputError):
                cli.parse([command])
    for command, parser in zip(cli.COMMANDS, seen, strict=True):
        places = [action for action in parser._actions if not action.option_strings]
        required = [w for action in parser._actions if action.required and action.option_strings
                    for w in (action.option_strings[0], "x")]
        for action in parser._actions:
            if action.nargs != 0:
                flag = action.option_strings[0] if action.option_strings else action.metavar
                before = [] if action in places else ["x"] * len(places)
                yield command, flag, [*before, *required], action in places


CASES = list(_commands())


@pytest.mark.parametrize("value", ["", *NAMES.values()], ids=["empty", *NAMES])
def test_no_flag_of_any_command_takes_an_empty_or_unfit_value(value):
    unfit = re.search("[\x00-\x1f\x7f-\x9f]|[\ud800-\udfff]", value)
    if value and not unfit:
        pytest.skip("is a name")
    assert len(CASES) > 80
    for command, flag, more, is_place in CASES:
        for words in ([value],) if is_place else ([flag, value], [f"{flag}={value}"]):
            with pytest.raises(InputError) as caught:
                cli.parse([command, *more, *words])
            assert str(caught.value).isprintable() and (value or flag in str(caught.value)), (command, flag)


def test_a_configuration_from_a_file_takes_no_unfit_name_either():
    for name in (NAMES["no UTF-8"], NAMES["new line"], NAMES["escape"], NAMES["null"]):
        for field in ("data_dir", "run_dir", "export_dir", "init_from"):
            with pytest.raises(InputError, match=field):
                Config(**{field: name})


@pytest.mark.parametrize("place", ["img", "label"])
@pytest.mark.parametrize("name", [name for key, name in NAMES.items() if key != "null"],
                         ids=[key for key in NAMES if key != "null"])
def test_images_of_such_names_are_named_in_one_line(name, place, end_of, tmp_path):
    image_tree(tmp_path / "data", 3, name=name.replace("/", ""))
    broken = next((tmp_path / "data" / "train" / f"train_{place}").iterdir())
    broken.write_bytes(b"no image")
    ended = end_of("train", "--preset", "debug", "--data_dir", "data")
    lines = ended.err.splitlines()
    assert ended.code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and lines[0].isprintable()
    assert printable(broken.name) in lines[0]
    assert all(line.isprintable() for line in ended.out.splitlines())


# ---------------------------------------------------------------------- notes of TensorFlow

HELD = """
import io, os, sys
from cvae_tf.errors import InputError, notes_held
{before}
with notes_held() as notes:
    os.write(2, b"a note\\nunfinished")
    {end}
print("done")
os.write(2, b"later")
"""


def _ended(code, *redirect, **variables):
    command = ["sh", "-c", f'exec "$0" -c "$1" {" ".join(redirect)}', sys.executable, code]
    return subprocess.run(command, capture_output=True, cwd=ROOT, env={**os.environ, **variables})


@pytest.mark.parametrize("end, shown", [
    ("pass", False), ("raise InputError('x')", False), ("raise KeyboardInterrupt", False), ("notes.show = True", True),
    ("raise ImportError('x')", True), ("os.abort()", True), ("os.kill(os.getpid(), 9)", True)])
def test_notes_are_shown_only_if_the_block_fails(end, shown):
    done = _ended(HELD.format(before="", end=end), TF_CPP_MIN_LOG_LEVEL="2")
    assert (b"a note\nunfinished" in done.stderr) == shown
    assert (done.stdout == b"done\n") == done.stderr.endswith(b"later") == (done.returncode == 0)


def test_notes_are_not_held_where_they_are_asked_for():
    assert b"a note" in _ended(HELD.format(before="", end="pass"), TF_CPP_MIN_LOG_LEVEL="0").stderr


@pytest.mark.parametrize("before, redirect", [
    ("", ["2>&-"]), ("sys.stderr = io.StringIO()", []), ("sys.executable = ''", []), ("sys.executable = None", [])])
def test_notes_need_no_stderr_and_no_second_process(before, redirect):
    done = _ended(HELD.format(before=before, end="pass"), *redirect, TF_CPP_MIN_LOG_LEVEL="2")
    assert done.stdout == b"done\n" or redirect


@pytest.mark.parametrize("end", ["raise ImportError('no such library')", "os.abort()"])
def test_a_tensorflow_that_does_not_start_shows_its_notes(end, tmp_path):
    (tmp_path / "tensorflow.py").write_text(f"import os\nos.write(2, b'here is why\\n')\n{end}\n")
    done = subprocess.run([sys.executable, ROOT / "train.py", "--preset", "debug"], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode not in (0, 2) and done.stderr.count("here is why") == 1
    assert ("no such library" in done.stderr) == ("raise" in end)


# ---------------------------------------------------------------------- causes

class _Step(keras.Model):
    """A model whose training step is a function of the batch."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def train_step(self, data):
        return {"loss": tf.reduce_sum(self.step(data))}


def _raise(error):
    def function(_):
        raise error

    return lambda x: tf.numpy_function(function, [x], tf.float32)


def _allocate(_):
    return np.zeros((10**7, 10**6), np.float32)


FAILING = {  # training step -> what the line must say
    "noise": (lambda x: tf.random.normal([10**7, 10**6, tf.shape(x)[0]]),
              "out of memory .*shape.10000000,1000000,4. and type float"),
    "tile": (lambda x: tf.tile(x, tf.stack([10**7 * tf.shape(x)[1], 10**5])),
             "out of memory .*shape.80000000,200000. "),
    "NumPy": (lambda x: tf.numpy_function(_allocate, [x], tf.float32),
              r"out of memory .*36.4 TiB for an array with shape .10000000, 1000000. and data type float32"),
    "function": (_raise(ValueError("the pixels ran out")), "TensorFlow stopped: ValueError: the pixels ran out$"),
    "two lines": (_raise(KeyError("a\nb")), "TensorFlow stopped: KeyError: 'a.*b'$"),
    "disk": (_raise(OSError(28, "No space left on device", "x.npy")), r"No space left on device: 'x.npy'$"),
    "assertion": (lambda x: (tf.debugging.assert_less(x, 0.5, "must be small"), x)[1],
                  "TensorFlow stopped: assertion failed: .must be small"),
    "not finite": (lambda x: tf.debugging.check_numerics(x / 0.0, "weights"),
                   "stopped: weights : Tensor had Inf values$"),
    "algebra": (lambda x: tf.linalg.inv(0 * x[:2, :2]), "TensorFlow stopped: Input is not invertible.$"),
}


def _line_of(call, capsys):
    with pytest.raises(SystemExit) as ended:
        errors.run(call)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not re.search(r'File "|\.py|Traceback|Detected at|{{|Hint|\[Op', lines[0]), lines[0]
    return lines[0]


SLOW = {"noise", "tile", "disk"}  # TensorFlow waits for memory before it gives up


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in FAILING])
def test_an_error_in_the_graph_of_a_training_step_is_told_by_its_cause(case, capsys):
    step, expected = FAILING[case]
    model = _Step(step)
    model.compile()
    line = _line_of(lambda: model.fit(np.ones((4, 2), np.float32), batch_size=4, verbose=0), capsys)
    assert re.search(expected, line), line
    assert ("--batch_size" in line) == ("out of memory" in line)


def test_an_error_in_the_data_of_fit_is_told_by_its_cause(capsys):
    def batches():
        yield np.ones((4, 2), np.float32)
        raise RuntimeError("the disk is gone")

    model = _Step(tf.identity)
    model.compile()
    data = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec((4, 2)))
    assert "stopped: RuntimeError: the disk is gone" in _line_of(
        lambda: model.fit(data, shuffle=False, verbose=0), capsys)


@pytest.mark.parametrize("call, expected", [
    pytest.param(lambda: tf.zeros((10**7, 10**6)), "out of memory .*shape.10000000,1000000. and type float",
                 marks=pytest.mark.slow),
    pytest.param(lambda: keras.layers.Dense(10**8).build((None, 10**6)), "out of memory .*shape.1000000,100000000.",
                 marks=pytest.mark.slow),  # too wide
    (lambda: np.zeros((10**7, 10**6)), r"out of memory .*72.8 TiB .*shape .10000000, 1000000. and data type float64"),
    (lambda: bytearray(10**15), "out of memory .*--batch_size"),
    (lambda: tf.io.read_file("nowhere"), "TensorFlow stopped: nowhere; No such file or directory$"),
    (lambda: tf.io.write_file("/dev/full", "x" * 10_000), "stopped: /dev/full; No space left on device$"),
], ids=["tensor", "layer", "array", "bytes", "missing file", "full disk"])
def test_an_error_outside_a_graph_is_told_by_its_cause(call, expected, capsys):
    assert re.search(expected, _line_of(call, capsys))


def test_other_accelerators_words_for_no_memory_are_known():
    for message in ("Out of memory while trying to allocate 29.10TiB.\n\t [[{{node PartitionedCall}}]]\nHint: If",
                    "2 root error(s) found.\n  (0) RESOURCE_EXHAUSTED: OOM when allocating shape[8]\n\t [[x]]",
                    "{{function_node f}} failed to allocate memory [Op:Mul] name: ",
                    "Failed copying input tensor from CPU:0 to GPU:0 in order to run: Dst tensor is not initialized."):
        line = in_plain_words(tf.errors.InternalError(None, None, message))
        assert line.startswith("out of memory (") and "Hint" not in line and "{{" not in line


def test_an_error_of_the_program_itself_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        errors.run(lambda: 1 / 0)


@pytest.mark.parametrize("started, expected", [
    ("train.py", "python train.py"), ("/home/me/cvae_tf/train.py", "python train.py"),
    ("predict.py", "python -m cvae_tf train"), ("/usr/bin/cvae-tf", "cvae-tf train"), ("cvae-tf.exe", "cvae-tf train"),
    ("/lib/cvae_tf/__main__.py", "python -m cvae_tf train"), ("ipykernel_launcher.py", "python -m cvae_tf train")])
def test_messages_repeat_how_the_program_was_started(started, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [started])
    assert errors.program("train") == expected
