"""Grows an answer's text token by token: stop texts that straddle tokens, and nothing emitted too early."""

from collections.abc import Callable, Sequence

_REPLACEMENT_CHARACTER = "\ufffd"

Decode = Callable[[Sequence[int]], str]


class AnswerText:
    """The text of one answer while it is generated.

    Args:
        decode: token ids to text.
        stop: texts that end the answer.
        include_stop: whether the stop text stays in the answer.
        is_watched: the text is needed while it grows, because of stop texts or streaming; otherwise it is decoded
            once, at the end.
    """

    def __init__(self, decode: Decode, stop: Sequence[str], *, include_stop: bool, is_watched: bool) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._is_watched = is_watched or bool(stop)
        self._longest_stop = max((len(each) for each in stop), default=0)
        self._ids: list[int] = []
        # Decoding a token needs its left neighbours: ids[_window:_read] is text already taken, kept as context.
        self._window = 0
        self._read = 0
        self._text = ""
        self._released = 0
        self._is_cut = False

    def push(self, token_id: int, *, may_stop: bool = True) -> bool:
        """Add a token; return whether a stop text is now complete, which also cuts the text there."""
        self._ids.append(token_id)
        if not self._is_watched:
            return False
        known = len(self._text)
        self._text += self._take_decodable()
        return may_stop and len(self._text) > known and self._cut_at_stop(known)

    def finish(self) -> None:
        """Complete the text after the last token; what was held back becomes final."""
        if self._is_cut:
            return
        if not self._is_watched:
            self._text = self._decode(self._ids)
            return
        tail = self._decode(self._ids[self._window :])[len(self._decode(self._ids[self._window : self._read])) :]
        self._text += tail

    def release(self, *, is_final: bool) -> str:
        """Return the text that became certain since the last call."""
        end = len(self._text) if is_final else len(self._text) - self._possible_stop_length()
        piece = self._text[self._released : end]
        self._released = max(self._released, end)
        return piece

    @property
    def text(self) -> str:
        """The whole text so far, held back parts included."""
        return self._text

    def _take_decodable(self) -> str:
        before = self._decode(self._ids[self._window : self._read])
        now = self._decode(self._ids[self._window :])
        # A replacement character at the end is a character whose bytes are not all there yet.
        if len(now) <= len(before) or now.endswith(_REPLACEMENT_CHARACTER):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _cut_at_stop(self, known: int) -> bool:
        start = max(0, known - self._longest_stop + 1)
        found = [(position, stop) for stop in self._stop if (position := self._text.find(stop, start)) >= 0]
        if not found:
            return False
        position, stop = min(found, key=lambda hit: hit[0])
        self._text = self._text[: position + (len(stop) if self._include_stop else 0)]
        self._is_cut = True
        return True

    def _possible_stop_length(self) -> int:
        """Length of the longest end of the text that could be the beginning of a stop text."""
        for length in range(min(self._longest_stop - 1, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stop):
                return length
        return 0
