"""EvalFleet's checkpoints as models of lm-evaluation-harness.

    import evalfleet.plugins.lm_eval  # registers the model `evalfleet`
    lm_eval.simple_evaluate(model="evalfleet", model_args={"model": "step-1200"}, tasks=["gsm8k"])

The harness has no entry points; its command line with this model in it is ``python -m evalfleet.plugins.lm_eval``.
"""

try:
    from evalfleet.plugins.lm_eval.model import EvalFleetLM
except ModuleNotFoundError as missing:
    if missing.name != "lm_eval":
        raise
    raise ModuleNotFoundError(
        "this plug-in needs lm-evaluation-harness: pip install 'evalfleet[lm-eval]'", name="lm_eval"
    ) from missing

__all__ = ["EvalFleetLM"]
