import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def said(script, *arguments):
    return subprocess.check_output([sys.executable, EXAMPLES / script, *arguments], text=True)


def test_the_script_trains_what_is_missing(tmp_path):
    folder = tmp_path / "population"
    given = ("--folder", str(folder), "--max-epochs", "2")
    assert said("train.py", "--networks", "3", *given).startswith(f"3 networks trained, 3 in {folder}: median accuracy")
    assert said("train.py", "--networks", "5", *given).startswith(f"2 networks trained, 5 in {folder}: median accuracy")


def test_a_metanet_of_ones_own_enters_the_league():
    scores = said("own_metanet.py", "40")
    assert all(word in scores for word in ("quantiles", "statistics", "R2"))


def test_a_family_of_ones_own_is_trained_and_read():
    assert float(said("own_family.py").split()[-1]) > 0.5
