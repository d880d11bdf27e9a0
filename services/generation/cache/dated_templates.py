"""Whether a model's chat template prints the day: then a conversation's prompt is another one tomorrow.

Engines render templates themselves, so that the service can only look whether the template's files name the function
that prints the time. What they print is taken to be the day, in this process's time zone: a template that prints the
hour gets answers of the same day.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Final

import structlog

from services.generation.models import ModelRecord

_TIME_FUNCTION: Final = b"strftime_now"
_TEMPLATE_FILES: Final = ("chat_template.*", "tokenizer_config.json")
_REMEMBERED: Final = 4096


class DatedTemplates:
    """Remembers by content which models' templates print the day.

    Args:
        today: the day, as a template prints it.
    """

    def __init__(self, today: Callable[[], date] = date.today) -> None:
        self._today = today
        self._dated: dict[str, bool] = {}

    async def day(self, record: ModelRecord) -> str | None:
        """Return the day if the template of a model with a digest prints it; ``None`` if it does not.

        A model whose files are gone counts as one that does: a miss too many rather than yesterday's answer.
        """
        is_dated = self._dated.get(record.digest)
        if is_dated is None:
            folders = [Path(each) for each in (record.checkpoint_path, record.adapter_path) if each]
            try:
                is_dated = await asyncio.to_thread(_prints_the_time, folders)
            except OSError as error:
                structlog.get_logger(__name__).info("chat_template_unread", model=record.model_id, problem=str(error))
                return self._today().isoformat()
            if len(self._dated) >= _REMEMBERED:
                self._dated.clear()
            self._dated[record.digest] = is_dated
        return self._today().isoformat() if is_dated else None


def _prints_the_time(folders: Sequence[Path]) -> bool:
    for folder in folders:
        # Listed rather than matched, because a folder that is gone is no folder without templates.
        for file in folder.iterdir():
            if any(file.match(pattern) for pattern in _TEMPLATE_FILES) and _TIME_FUNCTION in file.read_bytes():
                return True
    return False
