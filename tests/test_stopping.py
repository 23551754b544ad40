import pytest

from nwslib.population.stopping import Stopping


def stops_at(accuracies):
    """Number of the evaluation that stops the network, and the rule."""
    stopping = Stopping()
    for number, accuracy in enumerate(accuracies, start=1):
        rule = stopping.update(accuracy)
        if rule:
            return number, rule
    return None


def test_a_network_that_improves_goes_on():
    assert stops_at([k / 1000 for k in range(500)]) is None


@pytest.mark.parametrize(("fall_from", "expected"), [(3, 20), (18, 23)])
def test_five_falls_stop_but_not_before_the_twentieth_evaluation(fall_from, expected):
    rising = [k / 100 for k in range(1, fall_from + 1)]
    falling = [rising[-1] - k / 1e6 for k in range(1, 60)]
    assert stops_at(rising + falling) == (expected, "validation accuracy fell 5 times without a rise between")


def test_an_equal_evaluation_keeps_the_count_and_a_rise_clears_it():
    start = [k / 100 for k in range(1, 31)]
    with_equal = [*start, 0.29, 0.28, 0.28, 0.27, 0.26, 0.25]
    assert stops_at(with_equal)[0] == len(with_equal)
    with_rise = [*start, 0.29, 0.28, 0.285, 0.27, 0.26, 0.25, 0.24]
    assert stops_at(with_rise) is None


def test_thirty_times_below_the_average_stop_in_all():
    zigzag = [0.5 + 0.1 * (k % 2) for k in range(200)]
    assert stops_at(zigzag) == (61, "validation accuracy below its running average 30 times")


def test_the_running_average_gives_the_last_evaluation_half_the_weight():
    # 0.56 is above the mean of the three, but below an average that the 0.6 before it has just lifted to 0.566.
    sawtooth = [0.5, 0.6, 0.56] * 30
    assert stops_at(sawtooth) == (48, "validation accuracy below its running average 30 times")


def test_thirty_equal_evaluations_in_a_row_stop():
    assert stops_at([0.1] * 100) == (31, "validation accuracy unchanged 30 times in a row")
    interrupted = [0.1] * 25 + [0.2] * 25 + [0.3] * 25
    assert stops_at(interrupted) is None
