"""What a model's process imports, and what it leaves out."""

import subprocess
import sys

import pytest

from services.inference.repository import host_entry

CHECK = """
import sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
{model}
assert {{"transformers.generation.utils", "transformers.modeling_utils"}} <= sys.modules.keys()
left_out = [each for each in ("sklearn", "scipy", "pandas", "pyarrow") if each in sys.modules]
assert not left_out, left_out
import scipy, sklearn
"""


def test_a_models_process_carries_no_scikit_learn_though_it_is_installed() -> None:
    pytest.importorskip("sklearn")
    model = host_entry("0" * 64).files["1/model.py"].decode()
    done = subprocess.run(
        [sys.executable, "-c", CHECK.format(model=model)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
