"""What the texts of a result hold: conversations, and log-likelihoods of choices."""

import json


def conversation_of(prompt: str) -> list[tuple[str, str]]:
    """Read a prompt that is a conversation, as role and content; empty if it is none."""
    if not prompt.startswith('[{"role": '):
        return []
    try:
        return [(str(each["role"]), str(each["content"])) for each in json.loads(prompt)]
    except (ValueError, TypeError, KeyError):
        return []


def log_likelihoods_of(output: str) -> list[float]:
    """Read an output that is the log-likelihoods of choices; empty if it is none."""
    if not output.startswith('{"log_likelihoods": '):
        return []
    try:
        return [float(each) for each in json.loads(output)["log_likelihoods"]]
    except (ValueError, TypeError, KeyError):
        return []
