import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.runtime.cache.entry import CorruptEntryError, decode_entry, encode_entry

KEY = bytes(range(32))
VALUES = [b"", b"x", b"short", b"abc" * 5000, bytes(range(256)) * 9]


@given(st.binary(max_size=5000))
def test_a_value_comes_back(value: bytes) -> None:
    assert decode_entry(KEY, encode_entry(KEY, value)) == value


def test_long_texts_take_less_room() -> None:
    assert len(encode_entry(KEY, b"abc" * 5000)) < 1000


@pytest.mark.parametrize("value", VALUES)
def test_every_changed_byte_is_noticed(value: bytes) -> None:
    entry = encode_entry(KEY, value)
    for position in {*range(min(len(entry), 60)), len(entry) // 2, len(entry) - 1}:
        damaged = bytearray(entry)
        damaged[position] ^= 1
        with pytest.raises(CorruptEntryError):
            decode_entry(KEY, bytes(damaged))


@pytest.mark.parametrize("value", VALUES)
def test_every_shortened_or_lengthened_entry_is_noticed(value: bytes) -> None:
    entry = encode_entry(KEY, value)
    for length in {*range(min(len(entry), 60)), len(entry) // 2, len(entry) - 1}:
        with pytest.raises(CorruptEntryError):
            decode_entry(KEY, entry[:length])
    with pytest.raises(CorruptEntryError):
        decode_entry(KEY, entry + b"\0")


def test_an_entry_under_another_key_is_noticed() -> None:
    with pytest.raises(CorruptEntryError):
        decode_entry(KEY[::-1], encode_entry(KEY, b"value"))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_never_a_value(noise: bytes) -> None:
    with pytest.raises(CorruptEntryError):
        decode_entry(KEY, noise)
