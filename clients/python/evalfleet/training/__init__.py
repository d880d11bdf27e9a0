"""Evaluation beside a training: checkpoints go to a fleet when they are saved, and results come back with their step.

``CheckpointEvaluator`` is for hand-written loops; ``evalfleet.training.huggingface`` is a callback for transformers'
Trainer and TRL's trainers, ``evalfleet.training.lightning`` one for Lightning, and ``evalfleet.training.rewards`` has
reward functions for TRL.
"""

from evalfleet.training.checkpoint_results import CheckpointResult, PassedCheckpoint
from evalfleet.training.evaluation_request import EvaluationRequest
from evalfleet.training.evaluator import CheckpointEvaluator

__all__ = ["CheckpointEvaluator", "CheckpointResult", "EvaluationRequest", "PassedCheckpoint"]
