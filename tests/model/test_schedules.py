import pytest

from cvae_tf.model.schedules import beta_table, constant, cyclical, linear_decay, milestone_factor, monotonic


def test_cyclical_table_of_two_cycles():
    assert beta_table("Cyclical", 10, 2, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8] * 2, abs=1e-12)


def test_cyclical_table_of_the_lab_never_reaches_its_top():
    climb = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    table = beta_table("Cyclical", 70, 7, 1.0)
    assert table == pytest.approx(climb * 7, abs=1e-12)
    assert table[3] == 0.30000000000000004  # summed up step by step, as the lab does


def test_cyclical_table_with_a_period_that_is_no_integer():
    assert beta_table("Cyclical", 10, 3, 1.0) == pytest.approx([0, 0.3, 0.6, 0, 0.3, 0.6, 0, 0.3, 0.6, 0.9], abs=1e-12)
    assert beta_table("Cyclical", 7, 2, 0.5) == pytest.approx(
        [0, 0.5 / 3.5, 1 / 3.5, 0, 0.5 / 3.5, 1 / 3.5, 1.5 / 3.5], abs=1e-12)


def test_cyclical_table_with_almost_as_many_cycles_as_epochs():
    # Period 5/4: the climbs start at epochs 0, 1, 2 and 3, and each overwrites what the one before began.
    assert beta_table("Cyclical", 5, 4, 1.0) == pytest.approx([0, 0, 0, 0, 0.8], abs=1e-12)


def test_monotonic_is_one_climb_whatever_the_number_of_cycles():
    assert beta_table("Monotonic", 5, 7, 2.0) == pytest.approx([0, 0.4, 0.8, 1.2, 1.6], abs=1e-12)


def test_without_kl_keeps_the_top():
    assert beta_table("WithoutKL", 3, 7, 0.7) == [0.7, 0.7, 0.7]


def test_zero_top_is_zero_everywhere():
    assert beta_table("Cyclical", 6, 2, 0.0) == [0.0] * 6


def test_one_epoch():
    assert beta_table("Cyclical", 1, 1, 1.0) == [0.0]


def test_a_schedule_may_begin_later():
    assert beta_table("Monotonic", 6, 1, 2.0, start=2) == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5], abs=1e-12)
    assert beta_table("WithoutKL", 4, 1, 0.3, start=3) == [0, 0, 0, 0.3]
    assert beta_table("Cyclical", 5, 2, 1.0, start=9) == [0] * 5


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Cyclical"):
        beta_table("Linear", 3, 1, 1.0)


def test_each_kind_of_table_is_one_of_the_public_functions():
    assert beta_table("Cyclical", 10, 3, 0.5, start=2) == cyclical(10, cycles=3, stop=0.5, start=2)
    assert beta_table("Monotonic", 10, 3, 0.5, start=2) == monotonic(10, stop=0.5, start=2)
    assert beta_table("WithoutKL", 10, 3, 0.5, start=2) == constant(10, stop=0.5, start=2)


def test_teacher_forcing_falls_as_in_the_lab():
    ratio = linear_decay(1.0, first_epoch=10, step=0.1)
    assert [ratio(epoch) for epoch in (0, 9, 10, 11, 14, 19, 20, 69)] == pytest.approx(
        [1, 1, 0.9, 0.8, 0.5, 0, 0, 0], abs=1e-12)


def test_teacher_forcing_is_never_negative():
    assert linear_decay(0.5, first_epoch=0, step=0.3)(50) == 0.0


def test_the_learning_rate_falls_to_a_tenth_at_each_milestone():
    assert [milestone_factor(epoch) for epoch in range(7)] == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01, 0.01])
