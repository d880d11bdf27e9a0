"""A name server as a cluster's: a name stands for the addresses of a service's replicas, which come and go."""

import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final

_HOST: Final = "127.0.0.1"
_HEADER: Final = struct.Struct("!6H")
_QUESTION_TAIL: Final = struct.Struct("!2H")
_ADDRESS: Final = struct.Struct("!HHHIH4s")
_NAME_OF_QUESTION: Final = 0xC000 | _HEADER.size
_AUTHORITATIVE_ANSWER: Final = 0x8400
_TYPE_A, _CLASS_IN = 1, 1
_LIFETIME_SECONDS: Final = 1


class NameServer:
    """Answers while the ``with`` block is open; of a question it knows the first label, and IPv4 addresses only.

    Attributes:
        address: ``host:port``, for targets such as ``dns://ADDRESS/scoring.fleet:8103``.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((_HOST, 0))
        self.address = f"{_HOST}:{self._socket.getsockname()[1]}"
        self._addresses: Mapping[str, Sequence[str]] = {}
        self._is_closing = False
        self._thread = threading.Thread(target=self._answer_on, name="name server")

    def __enter__(self) -> "NameServer":
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closing = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waking:
            waking.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def tell(self, name: str, addresses: Sequence[str]) -> None:
        """Answer so from now on."""
        self._addresses = {**self._addresses, name: tuple(addresses)}

    def _answer_on(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(4096)
            if self._is_closing:
                return
            self._socket.sendto(self._answer(question), asker)

    def _answer(self, message: bytes) -> bytes:
        identity = _HEADER.unpack_from(message)[0]
        end = message.index(b"\0", _HEADER.size) + 1
        label = message[_HEADER.size + 1 : _HEADER.size + 1 + message[_HEADER.size]].decode()
        kind, _ = _QUESTION_TAIL.unpack_from(message, end)
        question = message[_HEADER.size : end + _QUESTION_TAIL.size]
        found = self._addresses.get(label, ()) if kind == _TYPE_A else ()
        records = [
            _ADDRESS.pack(_NAME_OF_QUESTION, _TYPE_A, _CLASS_IN, _LIFETIME_SECONDS, 4, socket.inet_aton(each))
            for each in found
        ]
        return _HEADER.pack(identity, _AUTHORITATIVE_ANSWER, 1, len(records), 0, 0) + question + b"".join(records)
