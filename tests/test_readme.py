import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "networks" / "manifest.json").is_file()
    assert names["kernels"].sizes["weight"] == 4 * 3 * 9 + 4 * 5
    assert "'accuracy'" in capsys.readouterr().out


def test_the_commands_it_names_exist():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    commands = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    assert commands == ["book", "test"]
    assert set(commands) <= set(targets)
    for path in re.findall(r"`(?:papermill )?((?:book|params)/[\w/]+\.\w+)", README):
        assert (ROOT / path).is_file()
    for profile in re.findall(r"PROFILE=(\w+)", README):
        assert (ROOT / "params" / profile).is_dir()
