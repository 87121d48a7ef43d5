"""The lab's conditional VAE for video prediction in PyTorch: network, training step and free-running generation.

Written from a description of the lab alone, as an independent reference. Everything happens at one resolution: no
down-sampling, no recurrence, and nothing bounds the output.

Shapes: T frames (or steps), B clips in the batch, H x W pixels; F, L, N, D are the channels of a frame feature, a
label (pose) feature, the latent and the decoder. Images are RGB in [0, 1], channels first, time before batch.
A clip of T frames has T - 1 steps; step t predicts frame t + 1 from frame t and pose t + 1.
"""

import torch
from torch import nn
from torch.nn import functional

# ---------------------------------------------------------------------- blocks

class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each followed by LeakyReLU, plus a skip; no activation after the sum."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x):
        """Maps (B, channels_in, H, W) to (B, channels_out, H, W)."""
        y = functional.leaky_relu(self.conv1(x), 0.01)
        y = functional.leaky_relu(self.conv2(y), 0.01)
        return y + self.skip(x)


class DepthConv(nn.Module):
    """1x1 convolution with LeakyReLU, depthwise 3x3, 1x1, plus a skip; linear after the first activation."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels_in, channels_in, 1), nn.LeakyReLU(0.01))
        self.depth_conv = nn.Conv2d(channels_in, channels_in, 3, padding=1, groups=channels_in)
        self.conv2 = nn.Conv2d(channels_in, channels_out, 1)
        self.adaptor = None if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x):
        """Maps (B, channels_in, H, W) to (B, channels_out, H, W)."""
        y = self.conv2(self.depth_conv(self.conv1(x)))
        return y + (x if self.adaptor is None else self.adaptor(x))


class ConvFFN(nn.Module):
    """Gated pointwise network: of 4c channels, one half times LeakyReLU(0.1) of the other; plus the input."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 1)
        self.conv_out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x):
        """Maps (B, channels, H, W) to the same shape."""
        value, gate = self.conv(x).chunk(2, dim=1)
        return x + self.conv_out(value * functional.leaky_relu(gate, 0.1))


class DepthConvBlock(nn.Module):
    """DepthConv, then ConvFFN."""

    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.block = nn.Sequential(DepthConv(channels_in, channels_out), ConvFFN(channels_out))

    def forward(self, x):
        """Maps (B, channels_in, H, W) to (B, channels_out, H, W)."""
        return self.block(x)


# ---------------------------------------------------------------------- modules

class RGB_Encoder(nn.Sequential):
    """Encodes a frame: (B, channels_in, H, W) to (B, F, H, W)."""

    def __init__(self, channels_in, F):
        super().__init__(
            ResidualBlock(channels_in, F // 8),
            DepthConvBlock(F // 8, F // 8),
            ResidualBlock(F // 8, F // 4),
            DepthConvBlock(F // 4, F // 4),
            ResidualBlock(F // 4, F // 2),
            DepthConvBlock(F // 2, F // 2),
            nn.Conv2d(F // 2, F, 3, padding=1),
        )


class Label_Encoder(nn.Sequential):
    """Encodes a pose drawing: (B, channels_in, H, W) to (B, L, H, W).

    `LeakyReLU(True)` is the lab's slip for `inplace=True`: a negative slope of 1, hence the identity.
    """

    def __init__(self, channels_in, L):
        super().__init__(
            nn.ReflectionPad2d(3),
            nn.Conv2d(channels_in, L // 2, 7),
            nn.BatchNorm2d(L // 2, eps=1e-5, momentum=0.1),
            nn.LeakyReLU(True),
            ResidualBlock(L // 2, L),
        )


class Gaussian_Predictor(nn.Sequential):
    """The posterior of the latent, given the features of the target frame and of its pose; channels_in = F + L."""

    def __init__(self, channels_in, N):
        super().__init__(
            ResidualBlock(channels_in, N // 4),
            DepthConvBlock(N // 4, N // 4),
            ResidualBlock(N // 4, N // 2),
            DepthConvBlock(N // 2, N // 2),
            ResidualBlock(N // 2, N),
            nn.LeakyReLU(True),  # the identity, as in Label_Encoder
            nn.Conv2d(N, 2 * N, 1),
        )

    def forward(self, frame, label, eps):
        """Samples the latent with given noise.

        Args:
            frame: Features of the target frame, (B, F, H, W).
            label: Features of its pose, (B, L, H, W).
            eps: Standard normal noise, (B, N, H, W).

        Returns:
            z, mu and logvar, each (B, N, H, W).
        """
        mu, logvar = super().forward(torch.cat([frame, label], dim=1)).chunk(2, dim=1)
        return mu + torch.exp(0.5 * logvar) * eps, mu, logvar


class Decoder_Fusion(nn.Sequential):
    """Merges previous frame, pose and latent; channels_in = F + L + N."""

    def __init__(self, channels_in, D):
        super().__init__(
            DepthConvBlock(channels_in, channels_in),
            ResidualBlock(channels_in, channels_in // 4),
            DepthConvBlock(channels_in // 4, channels_in // 2),
            ResidualBlock(channels_in // 2, channels_in // 2),
            DepthConvBlock(channels_in // 2, D // 2),
            nn.Conv2d(D // 2, D, 1),
        )

    def forward(self, frame, label, z):
        """Maps (B, F, H, W), (B, L, H, W) and (B, N, H, W) to (B, D, H, W)."""
        return super().forward(torch.cat([frame, label, z], dim=1))


class Generator(nn.Sequential):
    """Paints the frame: (B, D, H, W) to (B, channels_out, H, W), unbounded."""

    def __init__(self, D, channels_out):
        super().__init__(
            DepthConvBlock(D, D),
            ResidualBlock(D, D // 2),
            DepthConvBlock(D // 2, D // 2),
            ResidualBlock(D // 2, D // 4),
            DepthConvBlock(D // 4, D // 4),
            ResidualBlock(D // 4, D // 8),
            DepthConvBlock(D // 8, D // 8),
            nn.Conv2d(D // 8, channels_out, 1),
        )


class LabModel(nn.Module):
    """The five modules of the lab; the functions below put them together."""

    def __init__(self, F_dim=128, L_dim=32, N_dim=12, D_out_dim=192):
        super().__init__()
        self.frame_transformation = RGB_Encoder(3, F_dim)
        self.label_transformation = Label_Encoder(3, L_dim)
        self.Gaussian_Predictor = Gaussian_Predictor(F_dim + L_dim, N_dim)
        self.Decoder_Fusion = Decoder_Fusion(F_dim + L_dim + N_dim, D_out_dim)
        self.Generator = Generator(D_out_dim, 3)


# ---------------------------------------------------------------------- training

def kl_divergence(mu, logvar):
    """KL divergence of N(mu, exp(logvar)) from N(0, 1): summed over the latent, divided by the batch size only.

    Args:
        mu: (B, N, H, W).
        logvar: (B, N, H, W).

    Returns:
        A scalar.
    """
    return -0.5 * torch.sum(1 + logvar - mu.square() - logvar.exp()) / len(mu)


def rollout(model, frames, poses, eps, forced, gradient_through_time=False):
    """Predicts a clip with latents from the posterior, which sees each target frame.

    BatchNorm works as the model's mode says (`model.train()` or `model.eval()`). In training mode it sees the B poses
    of one step at a time and updates its running statistics T - 1 times. The pose of frame 0 is never used.

    Args:
        model: A LabModel.
        frames: True frames, (T, B, 3, H, W).
        poses: Their poses, (T, B, 3, H, W).
        eps: Standard normal noise, one per step, (T - 1, B, N, H, W).
        forced: Per step, whether the previous frame is the true one rather than the predicted one, (T - 1,) bools.
            The first step starts from the true frame 0 either way.
        gradient_through_time: Whether gradients pass through a prediction that is fed back.

    Returns:
        Predictions of frames 1 to T - 1, (T - 1, B, 3, H, W), and the KL divergence of each step, (T - 1,).
    """
    previous, predictions, kl = frames[0], [], []
    for step in range(len(frames) - 1):
        if forced[step]:
            previous = frames[step]
        elif not gradient_through_time:
            previous = previous.detach()
        label = model.label_transformation(poses[step + 1])
        target = model.frame_transformation(frames[step + 1])
        z, mu, logvar = model.Gaussian_Predictor(target, label, eps[step])
        previous = model.Generator(model.Decoder_Fusion(model.frame_transformation(previous), label, z))
        predictions.append(previous)
        kl.append(kl_divergence(mu, logvar))
    return torch.stack(predictions), torch.stack(kl)


def clip_loss(model, frames, poses, eps, forced, beta, gradient_through_time=False):
    """The objective of one batch of clips: over the steps, the sum of mean squared error plus beta times KL.

    Args:
        model: A LabModel.
        frames: (T, B, 3, H, W).
        poses: (T, B, 3, H, W).
        eps: (T - 1, B, N, H, W).
        forced: (T - 1,) bools.
        beta: Weight of the KL divergence.
        gradient_through_time: As in `rollout`.

    Returns:
        A scalar; the squared error of a step is a mean over batch, channels and pixels.
    """
    predictions, kl = rollout(model, frames, poses, eps, forced, gradient_through_time)
    mse = (predictions - frames[1:]).square().mean(dim=(1, 2, 3, 4))
    return mse.sum() + beta * kl.sum()


def train_step(model, optimizer, frames, poses, eps, forced, beta, gradient_through_time=False):
    """One update on one batch of clips, the gradient clipped to a global norm of 1.

    Args:
        model: A LabModel; its mode is left as it is.
        optimizer: An optimizer of the model's parameters; the lab's is `torch.optim.Adam(parameters, lr=1e-3)`.
        frames: (T, B, 3, H, W).
        poses: (T, B, 3, H, W).
        eps: (T - 1, B, N, H, W).
        forced: (T - 1,) bools.
        beta: Weight of the KL divergence.
        gradient_through_time: As in `rollout`.

    Returns:
        The loss before the update, a scalar tensor without gradient.
    """
    optimizer.zero_grad()
    loss = clip_loss(model, frames, poses, eps, forced, beta, gradient_through_time)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


# ---------------------------------------------------------------------- inference

@torch.no_grad()
def generate(model, first_frame, poses, z):
    """Predicts frames from one frame and any number of poses, each frame from the one predicted before it.

    BatchNorm works as the model's mode says; call `model.eval()` first for the running statistics.

    Args:
        model: A LabModel.
        first_frame: The frame before the first prediction, (B, 3, H, W).
        poses: The poses of the frames to predict, (T, B, 3, H, W).
        z: Latents drawn from the prior N(0, 1), (T, B, N, H, W).

    Returns:
        The T predicted frames, without the first frame and not clipped to [0, 1], (T, B, 3, H, W).
    """
    previous, predictions = first_frame, []
    for pose, latent in zip(poses, z, strict=True):
        feature, label = model.frame_transformation(previous), model.label_transformation(pose)
        previous = model.Generator(model.Decoder_Fusion(feature, label, latent))
        predictions.append(previous)
    return torch.stack(predictions)


def save_checkpoint(model, path, lr=1e-3, tfr=1.0, last_epoch=0):
    """Saves a checkpoint as the lab does, with the model's weights also where the optimizer's state should be.

    Args:
        model: A LabModel.
        path: The file to write.
        lr: Learning rate.
        tfr: Teacher forcing ratio.
        last_epoch: The epoch reached.
    """
    weights = model.state_dict()
    torch.save({"state_dict": weights, "optimizer": weights, "lr": lr, "tfr": tfr, "last_epoch": last_epoch}, path)
