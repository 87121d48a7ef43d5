"""Pure schedules: epoch -> KL weight beta, and epoch -> teacher-forcing ratio. Plain Python, no TensorFlow."""

KL_ANNEAL_TYPES = ("Cyclical", "Monotonic", "WithoutKL")


def beta_table(kl_anneal_type, num_epoch, cycles, stop, start=0):
    """KL weight of each epoch, as the report computes it (after Fu et al., 2019, arXiv:1903.10145).

    ``Cyclical`` climbs from 0 towards ``stop`` in each of ``cycles`` periods, ``Monotonic`` in one period over
    the whole training, ``WithoutKL`` stays at ``stop``. As in the report, beta is summed up step by step, and a
    climb ends just below ``stop``.

    Args:
        kl_anneal_type: one of `KL_ANNEAL_TYPES`.
        num_epoch: length of the table.
        cycles: number of periods of ``Cyclical``; the other kinds ignore it.
        stop: upper end of beta (the flag ``kl_anneal_ratio``).
        start: epochs before the first period, in which beta is 0; not in the lab.

    Returns:
        A list of ``num_epoch`` floats.
    """
    if kl_anneal_type not in KL_ANNEAL_TYPES:
        raise ValueError(f"kl_anneal_type must be one of {KL_ANNEAL_TYPES}, received {kl_anneal_type!r}")
    if start >= num_epoch:
        return [0.0] * num_epoch
    if start:
        return [0.0] * start + beta_table(kl_anneal_type, num_epoch - start, cycles, stop)
    table = [float(stop)] * num_epoch
    if kl_anneal_type == "WithoutKL":
        return table
    periods = cycles if kl_anneal_type == "Cyclical" else 1
    period = num_epoch / periods
    increment = stop / period
    for cycle in range(periods):
        beta, i = 0.0, 0
        # ``increment`` is 0 only if ``stop`` is: the end of the table then ends the climb.
        while beta <= stop and (epoch := int(i + cycle * period)) < num_epoch:
            table[epoch] = beta
            beta += increment
            i += 1
    return table


MILESTONES = (2, 5)  # epochs of the lab's template, each of which divides the learning rate by 10


def milestone_factor(epoch):
    """What the learning rate is multiplied by in ``epoch`` (0, 1, ...) with ``--lr_schedule milestones``."""
    return 0.1 ** sum(epoch >= milestone for milestone in MILESTONES)


def teacher_forcing_ratio(epoch, tfr, tfr_sde, tfr_d_step):
    """Teacher-forcing ratio in use in ``epoch`` (0, 1, ...): ``tfr`` until epoch ``tfr_sde`` lowers it, floor 0."""
    return max(0.0, tfr - tfr_d_step * max(0, epoch - tfr_sde + 1))
