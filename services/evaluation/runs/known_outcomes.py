"""Which samples of a run have their outcome: one bit each, so that a million items take a quarter of a megabyte."""


class KnownOutcomes:
    """A set of (task, draw index, sample).

    Args:
        sample_counts: by task, how many samples an item has.
    """

    def __init__(self, sample_counts: dict[str, int]) -> None:
        self._sample_counts = sample_counts
        self._bits: dict[str, bytearray] = {task: bytearray() for task in sample_counts}
        self._count = 0

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def add(self, task: str, draw_index: int, sample: int) -> bool:
        """Note an outcome; return whether it is a new one. One of a task or sample that the run has not is none."""
        if not 0 <= sample < self._sample_counts.get(task, 0) or draw_index < 0:
            return False
        bits = self._bits[task]
        index, bit = self._place(task, draw_index, sample)
        if index >= len(bits):
            bits.extend(bytes(index + 1 - len(bits)))
        if bits[index] & bit:
            return False
        bits[index] |= bit
        self._count += 1
        return True

    def has(self, task: str, draw_index: int, sample: int) -> bool:
        """Whether a sample has its outcome."""
        index, bit = self._place(task, draw_index, sample)
        bits = self._bits[task]
        return index < len(bits) and bool(bits[index] & bit)

    def has_all(self, task: str, draw_index: int) -> bool:
        """Whether all samples of an item have theirs."""
        return all(self.has(task, draw_index, sample) for sample in range(self._sample_counts[task]))

    def _place(self, task: str, draw_index: int, sample: int) -> tuple[int, int]:
        number = draw_index * self._sample_counts[task] + sample
        return number >> 3, 1 << (number & 7)
