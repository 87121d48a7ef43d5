"""The operations that the benchmarks count, against the count of another library; and their processes."""

import sys

import pytest
from conftest import ROOT

from cvae_tf.lab.network import LabNetwork

sys.path.insert(0, str(ROOT / "benchmarks"))
import throughput  # noqa: E402

torch = pytest.importorskip("torch")
torch_lab = pytest.importorskip("torch_lab")


@pytest.mark.slow
@torch.no_grad()
def test_operations_of_the_labs_network_are_those_that_pytorch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model, frame = torch_lab.LabModel(), torch.zeros(1, 3, 32, 64)

    def count(function):
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    features, pose, z = torch.zeros(1, 128, 32, 64), torch.zeros(1, 32, 32, 64), torch.zeros(1, 12, 32, 64)
    network = LabNetwork()
    ours = {name: operations for name, (operations, _) in throughput.work_of(network).items()}
    encode = count(lambda: model.frame_transformation(frame))
    assert ours == {
        "encode": encode, "context": 0, "pose": count(lambda: model.label_transformation(frame)),
        "posterior": encode + count(lambda: model.Gaussian_Predictor(features, pose, z)),
        "transition": encode + count(lambda: model.Generator(model.Decoder_Fusion(features, pose, z)))}
    frame_at_least = sum(ours[name] for name in ("pose", "posterior", "transition"))
    assert throughput.work_of_row(throughput.work_of(network), "free")[0] == 3 * 2 * 15 * frame_at_least


@pytest.mark.slow
def test_a_side_answers_from_its_own_process():
    side = throughput.Side(throughput.__file__, "--serve", "unet", "--device", "cpu")
    try:
        assert {"forced", "free", "generate_1", "work"} <= set(side.tasks)
        assert side("matrix_product") > 1e8 and side("memory") > 1e8
    finally:
        side.close()
