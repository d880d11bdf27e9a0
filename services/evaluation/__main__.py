"""Runs the evaluation service: ``python -m services.evaluation``."""

from services.evaluation.settings import EvaluationSettings
from services.evaluation.wiring import build
from services.runtime.entry import run_service

if __name__ == "__main__":
    run_service("evaluation", EvaluationSettings, build)
