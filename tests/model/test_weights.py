"""Weights are known by their place in the network, not by the order in which its layers were made."""

import keras
import numpy as np
import pytest

from cvae_tf.inference.export import load_weights, save_model
from cvae_tf.lab.network import LabNetwork
from cvae_tf.model.cvae import CVAE
from cvae_tf.model.network import weights_by_path
from cvae_tf.model.unet import Encoder, UNet


class SwappedUNet(UNet):
    """Makes its two encoders, which have equal shapes, in the other order."""

    def __setattr__(self, name, value):
        if name == "frame_encoder":  # the base makes it first
            object.__setattr__(self, "_late", True)
            return
        super().__setattr__(name, value)
        if name == "pose_encoder":
            super().__setattr__("frame_encoder", Encoder([self.width, 2 * self.width, 3 * self.width]))


@pytest.mark.parametrize("network", [
    lambda: UNet(width=2, N_dim=2, prior="learned"), lambda: LabNetwork(F_dim=8, L_dim=4, N_dim=4, D_out_dim=8)],
    ids=["unet", "lab"])
def test_each_weight_has_one_path(network):
    network = network()
    named = weights_by_path(network)
    assert len(named) == len(network.weights)
    assert {id(variable) for variable in named.values()} == {id(variable) for variable in network.weights}


def test_a_path_names_attributes():
    network = UNet(width=2, N_dim=3)
    named = weights_by_path(network)
    assert named["frame_encoder/downs/0/kernel"] is network.frame_encoder.downs[0].kernel
    assert named["decoder_fusion/merges/2/context/kernel"] is network.decoder_fusion.merges[2].context.kernel
    assert named["gaussian_predictor/mean/bias"] is network.gaussian_predictor.mean.bias


def test_layers_made_in_another_order_get_their_own_weights_by_name(tmp_path):
    keras.utils.set_random_seed(0)
    trained, swapped = UNet(width=2, N_dim=2), SwappedUNet(width=2, N_dim=2)
    # By position, the encoders' weights would change places without an error.
    assert [weight.shape for weight in swapped.weights] == [weight.shape for weight in trained.weights]
    assert swapped.weights[0] is swapped.pose_encoder.downs[0].kernel
    assert weights_by_path(swapped).keys() == weights_by_path(trained).keys()
    save_model(CVAE(trained, frame_size=(8, 8)), tmp_path / "model")
    load_weights(swapped, tmp_path / "model")
    for name, weight in weights_by_path(trained).items():
        np.testing.assert_array_equal(weights_by_path(swapped)[name], weight)
    frame, pose = np.random.default_rng(0).random((2, 1, 8, 8, 3), np.float32)
    z = np.ones((1, 1, 1, 2), np.float32)
    np.testing.assert_allclose(swapped(frame, pose, z, frame), trained(frame, pose, z, frame), atol=1e-6)
