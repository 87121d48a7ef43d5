"""What a film is generated from."""

import numpy as np

from cvae_tf.config import Config, studio_of
from cvae_tf.inference import predict as prediction
from cvae_tf.studio import scene as studio


def test_without_flags_a_model_is_shown_the_studio_that_it_knows(tmp_path):
    known = tmp_path / "known"
    known.mkdir()
    (known / "config.json").write_text(Config(studio_lamp=True, studio_seed=3, frame_H=16, frame_W=32).to_json())
    assert studio_of(known) == {"studio_seed": 3, "studio_variety": False, "studio_lamp": True}
    args = prediction.parse_args([])
    for model, expected in ((known, studio.sequence(0, 16, 32, seed=3, lamp=True)),
                            (tmp_path, studio.sequence(0, 16, 32))):  # without a config.json: the plain one
        first, given, length, read = prediction._read_input(args, model, 16, 32)
        poses, truth = read(slice(0, length))
        assert given and length == 630
        np.testing.assert_allclose(truth, expected[0] / 255, atol=1e-6)
        np.testing.assert_allclose(poses, expected[1] / 255, atol=1e-6)
        np.testing.assert_array_equal(first, truth[0])
