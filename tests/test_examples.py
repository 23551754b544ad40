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
