"""The lab's checkpoints, in and out, as a user brings and takes them."""

import argparse
import pickle
import re
import resource
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, make_model

# PyTorch's builds for CUDA bring Triton, whose LLVM and TensorFlow's abort in one process; it is not needed here.
sys.modules.setdefault("triton", None)
torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is needed only for the lab's checkpoints")
sys.path.insert(0, str(ROOT / "benchmarks"))
pytestmark = pytest.mark.filterwarnings("ignore:CUDA initialization")  # of such a build without a GPU

import torch_lab  # noqa: E402

from cvae_tf import cli  # noqa: E402
from cvae_tf.config import PRESETS, Config, load_config  # noqa: E402
from cvae_tf.errors import InputError  # noqa: E402
from cvae_tf.inference.export import save_model  # noqa: E402
from cvae_tf.inference.exported_model import ExportedModel  # noqa: E402
from cvae_tf.lab import torch_checkpoint  # noqa: E402
from cvae_tf.lab.network import LabNetwork  # noqa: E402
from cvae_tf.lab.torch_checkpoint import (  # noqa: E402
    export_torch,
    import_torch,
    load_state,
    read_checkpoint,
    widths_of,
)

SIZES = dict(F_dim=24, L_dim=10, N_dim=8, D_out_dim=40)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model of other than the default widths, whose norm has seen data, and its checkpoint."""
    torch.manual_seed(3)
    model = torch_lab.LabModel(**SIZES)
    norm = model.label_transformation[2]
    with torch.no_grad():
        for tensor, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 2),
                                  (norm.bias, -1, 1)):
            tensor.uniform_(low, high)
    path = tmp_path_factory.mktemp("torch") / "epoch=12.ckpt"
    torch_lab.save_checkpoint(model, path, lr=1e-5, tfr=0.3, last_epoch=12)
    return model, path


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "mine"
    import_torch(checkpoint[1], path, frame_size=(16, 32))
    return path


def _poses(time, seed=0):
    return np.random.default_rng(seed).random((time, 16, 32, 3), np.float32)


@pytest.mark.slow
def test_widths_come_from_the_tensors_and_the_model_is_like_a_trained_one(imported):
    config = load_config(imported / "config.json")
    assert {name: getattr(config, name) for name in SIZES} == SIZES
    assert (config.network, config.batch_norm, config.frame_H, config.frame_W) == ("lab", "train", 16, 32)
    signatures = set(tf.saved_model.load(str(imported)).signatures)
    assert signatures == {"generate", "serving_default", "continue", "reconstruct"}


@pytest.mark.slow
@torch.no_grad()
def test_the_imported_savedmodel_generates_what_pytorch_does(checkpoint, imported):
    theirs, _ = checkpoint
    theirs.train()  # the template never leaves it
    first, poses = _poses(1)[0], _poses(12, 1)
    # With z = 0, so that no noise has to agree.
    ours = ExportedModel(imported).generate(first, poses, temperature=0.0)
    there = [torch.from_numpy(np.moveaxis(x, -1, -3).copy()) for x in (first[None], poses[:, None])]
    expected = torch_lab.generate(theirs, *there, torch.zeros(12, 1, 8, 16, 32))
    expected = np.moveaxis(expected[:, 0].numpy(), 1, -1)
    assert np.mean((expected > 0) & (expected < 1)) > 0.2  # most are not just the clipping's
    np.testing.assert_allclose(ours, np.clip(expected, 0, 1), atol=1e-4)


@pytest.mark.slow
def test_the_command_reads_a_checkpoint_with_running_statistics(checkpoint, end_of, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(torch_checkpoint, "save_model", lambda model, path, config: saved.append((model, path, config)))
    ended = end_of("import-torch", checkpoint[1], "--out", "mine", "--batch-norm", "inference", "--frame-H", "16")
    ((model, path, config),) = saved
    assert ended.code == 0 and "24" in ended.out and str(path) == "mine"
    assert (config.batch_norm, config.frame_H, config.frame_W) == ("inference", 16, 64)
    assert model.network.pose_encoder.batch_norm == "inference"


@pytest.mark.slow
def test_there_and_back_is_the_same_checkpoint(checkpoint, imported, tmp_path):
    out = tmp_path / "epoch=40.ckpt"
    assert export_torch(imported, out) == {"last_epoch": 40, "tfr": 0.3, "lr": 1e-5}  # as they came
    content = torch.load(out, weights_only=True)
    expected = torch.load(checkpoint[1], weights_only=True)["state_dict"]
    assert list(sorted(content["state_dict"])) == list(sorted(expected))
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(content["state_dict"][name], tensor), name
    torch_lab.LabModel(**SIZES).load_state_dict(content["state_dict"])  # strict: as the template's Trainer loads it
    assert (content["last_epoch"], content["tfr"], content["lr"]) == (40, 0.3, 1e-5)


def test_the_learning_rate_and_ratio_of_an_epoch_go_with_it(tmp_path, monkeypatch):
    sizes = dict(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)
    config = Config(**{**PRESETS["lab"], **sizes, "preset": "lab", "frame_H": 16, "frame_W": 32})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(config.to_json())
    network = LabNetwork(**sizes)
    monkeypatch.setattr(torch_checkpoint, "LabNetwork", lambda *sizes: network)
    monkeypatch.setattr(torch_checkpoint, "load_weights", lambda network, path: None)
    for epoch, lr, tfr in ((1, 1e-3, 1.0), (4, 1e-4, 1.0), (12, 1e-5, 0.7), (69, 1e-5, 0.0)):
        out = tmp_path / f"epoch={epoch}.ckpt"
        export_torch(tmp_path / "mine", out)
        content = torch.load(out, weights_only=True)
        assert content["last_epoch"] == epoch
        assert content["lr"] == pytest.approx(lr) and content["tfr"] == pytest.approx(tfr)


@pytest.mark.slow
def test_a_trained_savedmodel_goes_to_pytorch(tmp_path):
    sizes = dict(F_dim=16, L_dim=8, N_dim=4, D_out_dim=16)
    model = make_model(LabNetwork(**sizes))
    model.network.encode_poses(tf.constant(_poses(4)[:, None]), training=True)  # statistics other than at the start
    save_model(model, tmp_path / "mine", Config(network="lab", frame_H=16, frame_W=32, **sizes))
    cli.parse(["export-torch", "--model", str(tmp_path / "mine"), "--out", str(tmp_path / "epoch=1.ckpt")])()
    theirs = torch_lab.LabModel(16, 8, 4, 16)
    theirs.load_state_dict(torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["state_dict"])
    theirs.eval()
    first, poses = _poses(1)[0], _poses(8, 1)
    ours = ExportedModel(tmp_path / "mine").generate(first, poses, temperature=0.0)
    there = [torch.from_numpy(np.moveaxis(x, -1, -3).copy()) for x in (first[None], poses[:, None])]
    expected = torch_lab.generate(theirs, *there, torch.zeros(8, 1, 4, 16, 32))
    assert np.mean((ours > 0) & (ours < 1)) > 0.2
    np.testing.assert_allclose(ours, np.clip(np.moveaxis(expected[:, 0].numpy(), 1, -1), 0, 1), atol=1e-4)


# ---------------------------------------------------------------------- what is refused

class _Code:
    def __reduce__(self):
        return print, ("this must never be printed",)


def _damaged(kind):
    state = dict(torch_lab.LabModel(**SIZES).state_dict())
    if kind == "missing":
        del state["Generator.3.conv2.bias"], state["Decoder_Fusion.0.block.0.depth_conv.weight"]
    elif kind == "extra":
        state["Generator.9.weight"] = torch.zeros(2)
    elif kind == "shape":
        state["frame_transformation.0.conv1.weight"] = torch.zeros(3, 3, 5, 5)
    elif kind == "nan":
        state["label_transformation.2.running_var"] *= float("nan")
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def network():
    return LabNetwork(**SIZES)


@pytest.mark.parametrize("kind, message", [
    ("missing", "Decoder_Fusion.0.block.0.depth_conv.weight is missing; Generator.3.conv2.bias is missing"),
    ("extra", "Generator.9.weight is not part of the network"),
    ("shape", r"frame_transformation.0.conv1.weight .*\[3, 3, 5, 5\].*\[3, 3, 3, 3\]"),
    ("nan", "label_transformation.2.running_var .*finite"),
])
def test_a_checkpoint_that_does_not_fit_is_refused_with_what_does_not(kind, message, network):
    before = [weight.numpy() for weight in network.weights]
    with pytest.raises(InputError, match=message):
        load_state(network, _damaged(kind))
    for old, weight in zip(before, network.weights, strict=True):
        np.testing.assert_array_equal(old, weight.numpy())


def test_another_networks_checkpoint_is_refused_by_file_and_nothing_is_written(tmp_path):
    torch.save({"state_dict": {"layer.weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    wide = torch_lab.LabModel(**SIZES).state_dict()
    wide["frame_transformation.6.bias"] = torch.zeros(100_000)
    torch.save({"state_dict": wide}, tmp_path / "wide.ckpt")
    for name, message in (("other", "other.ckpt: not a checkpoint of the lab's network"),
                          ("wide", "wide.ckpt: frame_transformation.6.bias has 100000 elements")):
        with pytest.raises(InputError, match=message):
            import_torch(tmp_path / f"{name}.ckpt", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_module_that_is_missing_altogether_is_listed(network):
    state = {name: value for name, value in _damaged("none").items() if not name.startswith("Gaussian_Predictor")}
    assert widths_of(state) == {**SIZES, "N_dim": 12}
    with pytest.raises(InputError, match="Gaussian_Predictor.0.conv1.bias is missing; .*; and [0-9]+ more"):
        load_state(network, state)


def test_other_ways_to_save_a_state_dict_are_read(tmp_path):
    """Of a DataParallel, with parameters instead of tensors, in half precision."""
    model = torch_lab.LabModel(**SIZES).half()
    state = {f"module.{name}": torch.nn.Parameter(value) if value.is_floating_point() else value
             for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "lr": "fast"}, tmp_path / "a.ckpt")
    read, settings = read_checkpoint(tmp_path / "a.ckpt")
    assert read.keys() == model.state_dict().keys() and settings == {}
    np.testing.assert_array_equal(read["Generator.7.weight"], model.Generator[7].weight.detach().float().numpy())


def test_a_file_that_wants_code_run_or_is_damaged_is_refused_and_runs_nothing(checkpoint, tmp_path, capfd):
    files = {"code.ckpt": "asks to run print",
             "old.ckpt": "not a checkpoint that can be read",
             "args.ckpt": "asks to run argparse.Namespace", "folder": "not a checkpoint that can be read",
             "half.ckpt": "not a checkpoint that can be read", "empty.ckpt": "not a checkpoint that can be read",
             "list.ckpt": "holds no state_dict of tensors", "none.ckpt": "no such file"}
    torch.save({"state_dict": _Code()}, tmp_path / "code.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"state_dict": _Code()}))
    whole = checkpoint[1].read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "args.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name, message in files.items():
        with pytest.raises(InputError, match=message) as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
    assert "never be printed" not in "".join(capfd.readouterr())


def test_without_pytorch_the_command_says_what_to_install(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    config = Config(network="lab")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(config.to_json())
    for call in (lambda: import_torch(checkpoint[1], tmp_path / "out"),
                 lambda: export_torch(tmp_path / "model", tmp_path / "x.ckpt")):
        with pytest.raises(InputError, match="PyTorch.* not installed; pip install .torch>="):
            call()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "config.json"]


@pytest.mark.slow
def test_nothing_is_overwritten_and_only_the_labs_network_goes_back(checkpoint, imported, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        import_torch(checkpoint[1], imported)
    with pytest.raises(InputError, match="exists already"):
        export_torch(imported, checkpoint[1])
    with pytest.raises(InputError, match="received network 'unet'"):
        export_torch(ROOT / "saved_models" / "studio", tmp_path / "x.ckpt")


def test_the_command_ends_on_one_line_and_exit_code_2(end_of, tmp_path):
    ended = end_of("import-torch", "none.ckpt", "--out", "out")
    assert ended.code == 2 and ended.err.strip() == "error: none.ckpt: no such file"
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- tensors that do not hold what they say

def _shapes(width):
    with torch.device("meta"):
        model = torch_lab.LabModel(F_dim=width, L_dim=width, N_dim=width // 2, D_out_dim=width)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _refused_cheaply(path, message, tmp_path):
    """The refusal, which may take neither a network of the file's widths nor copies of its tensors."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message) as caught:
        import_torch(path, tmp_path / "out")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB; the network would be 11 GB
    assert str(caught.value).isprintable() and not (tmp_path / "out").exists()


def test_a_small_file_of_wide_expanded_tensors_is_refused_before_anything_is_built(tmp_path):
    state = {name: torch.zeros(()).expand(shape) for name, shape in _shapes(4096).items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").stat().st_size < 2**20
    _refused_cheaply(tmp_path / "a.ckpt", "a.ckpt: its tensors hold .* bytes by their shapes", tmp_path)


@pytest.mark.slow
def test_wide_biases_alone_do_not_build_the_network(tmp_path):
    state = {name: torch.zeros(shape) for name, shape in _shapes(4096).items() if len(shape) == 1}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    _refused_cheaply(tmp_path / "a.ckpt", "Decoder_Fusion.0.block.0.conv1.0.weight is missing", tmp_path)


def test_wide_tensors_that_share_one_storage_are_refused(tmp_path):
    shapes = _shapes(512)
    shared = torch.zeros(max(shape.numel() for shape in shapes.values()))
    state = {name: shared[:shape.numel()].view(shape) for name, shape in shapes.items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    _refused_cheaply(tmp_path / "a.ckpt", "its tensors hold", tmp_path)


@pytest.mark.parametrize("make", [
    lambda x: x.to("meta"), lambda x: x.to_sparse(), lambda x: x.to_sparse_csr(),
    lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)], ids=["meta", "sparse", "rows", "quantised"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_numbers_are_refused(make, tmp_path):
    torch.save({"state_dict": {"Generator.7.weight": make(torch.ones(3, 3))}}, tmp_path / "a.ckpt")
    _refused_cheaply(tmp_path / "a.ckpt", "Generator.7.weight must be a plain tensor", tmp_path)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int64, torch.uint16, torch.float8_e4m3fn])
def test_tensors_of_another_kind_of_number_are_refused(dtype, checkpoint, tmp_path):
    state = dict(checkpoint[0].state_dict())
    state["Generator.7.weight"] = torch.ones_like(state["Generator.7.weight"]).to(dtype)
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    _refused_cheaply(tmp_path / "a.ckpt", "Generator.7.weight must (hold finite|be a plain tensor of) numb", tmp_path)


def test_a_compressed_archive_is_refused_unread(tmp_path):
    torch.save({"state_dict": {"Generator.7.weight": torch.zeros(10**6)}}, tmp_path / "a.ckpt")
    with (zipfile.ZipFile(tmp_path / "a.ckpt") as plain,
          zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as small):
        for name in plain.namelist():
            small.writestr(name, plain.read(name))
    _refused_cheaply(tmp_path / "b.ckpt", "it is compressed, 4,0", tmp_path)


def test_tensors_in_another_order_of_memory_and_views_of_one_buffer_are_read(tmp_path):
    buffer, image = torch.arange(24.0), torch.rand(2, 3, 4, 4)
    state = {"a": buffer[:10], "b": buffer[10:].view(2, 7), "c": image.to(memory_format=torch.channels_last)}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    read, _ = read_checkpoint(tmp_path / "a.ckpt")
    for name, tensor in state.items():
        np.testing.assert_array_equal(read[name], tensor.numpy())


def test_names_of_tensors_are_shown_by_their_codes(checkpoint, tmp_path):
    state = dict(checkpoint[0].state_dict()) | {"x\nerror: forged\x1b[31m\u202e": torch.zeros(1)}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    _refused_cheaply(tmp_path / "a.ckpt", r"x\\nerror: forged\\x1b\[31m\\u202e is not part of the network", tmp_path)


# ---------------------------------------------------------------------- advice

@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu124", "2.6.0", "2.9.1+cpu"])
def test_a_pytorch_that_a_file_can_make_run_code_reads_none(version, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match=f"2.10 or newer, .*CVE-.*received {re.escape(version)}.*pip install"):
        read_checkpoint(checkpoint[1])


def test_pytorchs_advice_to_read_a_file_unsafely_is_never_shown(checkpoint, tmp_path, capfd):
    whole = checkpoint[1].read_bytes()
    torch.save({"state_dict": _Code()}, tmp_path / "code")
    torch.save({"state_dict": {}, "scale": np.float32(1)}, tmp_path / "numpy")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module")
    for protocol in range(6):
        (tmp_path / f"pickle{protocol}").write_bytes(pickle.dumps({"state_dict": _Code()}, protocol))
    for share in (0, 1, 10, len(whole) // 3, len(whole) - 1):
        (tmp_path / f"cut{share}").write_bytes(whole[:share])
    (tmp_path / "text").write_text("no checkpoint at all")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError) as caught:
            read_checkpoint(path)
        assert not re.search("weights_only|safe_globals|trust|PyTorch|torch.load|pytorch.org", str(caught.value))
        assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()
    assert not "".join(capfd.readouterr())
