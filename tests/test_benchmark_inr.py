"""The benchmark of image networks: it compares like with like, and says what was asked for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import inr
from benchmarks.population import NOISE, noise_set
from nwslib import space
from nwslib.population import train


@pytest.mark.parametrize("kind", ["fused", "foreach"])
def test_what_it_is_compared_with_ends_where_ours_ends(kind: str) -> None:
    images = replace(noise_set(14, 200, 200), grey=True)
    design = space.sample("siren", 2, 0, dataset=NOISE, image_size=14, steps=5)
    for one in train(design, {NOISE: images}, device="cpu", progress=False):
        plain = inr.Plain(design.isel(model=int(one["model"][0])), images, torch.device("cpu"), kind)
        plain.fit(5)
        vector = torch.nn.utils.parameters_to_vector(plain.network.parameters()).detach()
        moved = np.abs(one["weights"].values[0, -1] - one["weights"].values[0, 0]).max()
        assert np.abs(one["weights"].values[0, -1] - vector.numpy()).max() < 1e-3 * moved


def test_last_line_is_one_object_of_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from benchmarks.__main__ import main

    monkeypatch.setattr(inr, "SECONDS", 0.01)
    options = ["--device=cpu", "--networks=3", "--steps=3", "--image-size=14", "--channels=3", "--repeats=1"]
    monkeypatch.setattr("sys.argv", ["benchmarks", "inr", *options])
    before = torch.get_num_threads()
    main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["networks"], found["steps"], found["image_size"], found["channels"]) == (3, 3, 14, 3)
    ours = found["networks_per_second"]
    assert found["vs_one_at_a_time"] == pytest.approx(ours / found["one_at_a_time_per_second"], rel=0.02, abs=1e-3)
    assert found["vs_floor"] == pytest.approx(ours / found["floor"]["networks_per_second"], rel=0.02, abs=1e-3)
    assert torch.get_num_threads() == before
