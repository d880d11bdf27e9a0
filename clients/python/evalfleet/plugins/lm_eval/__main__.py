"""lm-evaluation-harness's own command line, in which `--model evalfleet` is known.

python -m evalfleet.plugins.lm_eval run --model evalfleet --model_args model=step-1200 --tasks gsm8k
"""

from lm_eval.__main__ import cli_evaluate

import evalfleet.plugins.lm_eval  # noqa: F401 - registers the model

if __name__ == "__main__":
    cli_evaluate()
