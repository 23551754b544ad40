import pytest

from nwslib import space
from nwslib.population import images, shared, train


@pytest.fixture
def lines(monkeypatch):
    """Collect what the status line says."""
    said = []
    monkeypatch.setattr(shared.status_line, "report", said.append)
    return said


def test_the_status_line_counts_networks_and_is_cleared_at_the_end(lines, monkeypatch):
    now = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr(shared.time, "monotonic", lambda: next(now))
    watch = shared.Watch(40, True, started=next(now))
    watch.report(10)
    watch.report(10, "median 30.0 dB")
    watch.end()
    assert lines == [
        "10 of 40 networks, 3,600 per hour, about 0:30 to go",
        "20 of 40 networks, 3,600 per hour, about 0:20 to go, median 30.0 dB",
        "",
    ]


def test_nothing_is_said_where_nobody_asked_for_it(lines):
    watch = shared.Watch(4, False)
    watch.report(4)
    watch.end()
    assert lines == []


@pytest.mark.parametrize(
    ("collection", "fixed"),
    [
        ("siren", {"image_size": 16, "steps": 2, "learning_rate": [5e-4, 1e30]}),
        ("noisy_mlp", {"image_size": 16, "epochs": 1}),
    ],
)
def test_further_families_say_how_far_they_are_even_where_a_network_diverged(lines, collection, fixed):
    sets = {"digits": images.load("digits", size=16)}
    design = space.sample(collection, 4, seed=0, dataset="digits", **fixed)
    assert sum(1 for _ in train(design, sets, device="cpu", snapshots=2)) == 4
    assert lines[-2].startswith("4 of 4 networks, ")
    assert ("dB" in lines[-2]) == (collection == "siren")
    assert "nan" not in lines[-2]
    assert lines[-1] == ""
