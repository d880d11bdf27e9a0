"""Tasks of lm-evaluation-harness as tasks of the evaluation service: ``evalfleet import-task``.

What can be said exactly is translated. Everything else is refused with the name of the field, all of it at once: a task
that almost asks the same measures something else.
"""

try:
    from evalfleet.plugins.lm_eval_tasks.translation import ImportedTask, import_task
except ModuleNotFoundError as missing:
    if missing.name not in ("jinja2", "yaml"):
        raise
    raise ModuleNotFoundError(
        f"importing tasks needs {missing.name}: pip install 'evalfleet[import-task]'", name=missing.name
    ) from missing

__all__ = ["ImportedTask", "import_task"]
