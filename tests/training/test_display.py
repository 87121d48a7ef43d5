from cvae_tf.training.display import EpochLine

LOGS = {"loss": 1.25, "mse": 1.0, "gd": 3.0, "kl": 0.5, "beta": 0.5, "tfr": 0.0, "lr": 1e-3, "skipped": 0}


def test_the_line_of_an_epoch_adds_up(capsys):
    EpochLine(2, 0.0).on_epoch_end(0, LOGS)
    assert capsys.readouterr().out == (
        "epoch 1/2: loss 1.2500 = mse 1.0000 + 0.5 x kl 0.5, tfr 0.00, lr 1.00e-03\n")
