"""The Triton programs without a GPU: run in Triton's interpreter, and compiled for a device that need not be here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent

pytest.importorskip("triton")


def run(file: str, **environment: str) -> str:
    """Run tests in their own process: Triton reads its environment when it is imported."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / file)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.mark.slow
def test_programs_keep_their_laws():
    assert " passed" in run("triton_laws.py", TRITON_INTERPRET="1")


@pytest.mark.slow
def test_programs_compile_for_a_gpu(tmp_path):
    assert " passed" in run("triton_compiled.py", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
