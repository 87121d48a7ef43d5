"""Schedules over the epochs: KL weight beta and teacher-forcing ratio. Plain Python, no TensorFlow.

The tables of beta are the report's. They follow cyclical annealing (Fu et al., 2019, arXiv:1903.10145).
"""

from collections.abc import Callable

KL_ANNEAL_TYPES = ("Cyclical", "Monotonic", "WithoutKL")
MILESTONES = (2, 5)  # epochs at which the lab's template divides the learning rate by 10


def cyclical(num_epoch: int, cycles: int, stop: float, start: int = 0) -> list[float]:
    """Table of the KL weight beta by epoch; beta climbs from 0 towards ``stop`` once in each cycle.

    As in the report, beta is summed up step by step, so a climb ends just below ``stop``.

    Args:
        num_epoch: number of epochs.
        cycles: number of climbs after ``start``.
        stop: upper limit of beta, per nat.
        start: number of epochs before the first cycle, with beta 0. Not in the lab.

    Returns:
        A list of ``num_epoch`` floats.
    """
    if start:
        return [0.0] * min(start, num_epoch) + (cyclical(num_epoch - start, cycles, stop) if start < num_epoch else [])
    table = [float(stop)] * num_epoch
    period = num_epoch / cycles
    increment = stop / period
    for cycle in range(cycles):
        beta, i = 0.0, 0
        # Where ``stop`` is 0, beta never exceeds it, and the end of the table ends the climb.
        while beta <= stop and (epoch := int(i + cycle * period)) < num_epoch:
            table[epoch] = beta
            beta += increment
            i += 1
    return table


def monotonic(num_epoch: int, stop: float, start: int = 0) -> list[float]:
    """Table of the KL weight, which climbs once over all epochs; arguments and result as in `cyclical`."""
    return cyclical(num_epoch, 1, stop, start)


def constant(num_epoch: int, stop: float, start: int = 0) -> list[float]:
    """Table of the KL weight: ``stop`` from epoch ``start`` on, and 0 before; arguments and result as in `cyclical`."""
    return [0.0] * min(start, num_epoch) + [float(stop)] * (num_epoch - start)


def beta_table(kl_anneal_type, num_epoch, cycles, stop, start=0):
    """The table for one of `KL_ANNEAL_TYPES`: `cyclical`, `monotonic`, or `constant` for the report's ``WithoutKL``.

    Raises:
        ValueError: ``kl_anneal_type`` is not one of `KL_ANNEAL_TYPES`.
    """
    if kl_anneal_type not in KL_ANNEAL_TYPES:
        raise ValueError(f"kl_anneal_type is invalid; expected one of {KL_ANNEAL_TYPES}, received {kl_anneal_type!r}")
    if kl_anneal_type == "Cyclical":
        return cyclical(num_epoch, cycles, stop, start)
    return (monotonic if kl_anneal_type == "Monotonic" else constant)(num_epoch, stop, start)


def linear_decay(initial: float, first_epoch: int, step: float) -> Callable[[int], float]:
    """Teacher-forcing ratio that falls by ``step`` per epoch, down to 0.

    Args:
        initial: ratio before ``first_epoch``, in [0, 1].
        first_epoch: first epoch (0, 1, ...) with a lower ratio, the lab's ``tfr_sde``.
        step: fall per epoch, the lab's ``tfr_d_step``.

    Returns:
        A function from the epoch (0, 1, ...) to the ratio.
    """
    return lambda epoch: max(0.0, initial - step * max(0, epoch - first_epoch + 1))


def milestone_factor(epoch):
    """Factor of the learning rate in ``epoch`` (0, 1, ...) with ``--lr_schedule milestones``."""
    return 0.1 ** sum(epoch >= milestone for milestone in MILESTONES)
