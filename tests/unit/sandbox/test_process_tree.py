"""Who the processes below one are, whatever its threads do meanwhile."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.sandbox.process_tree import _listed_children, _waits_of, children_of, descendants_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
LOOKS = 2000


@contextmanager
def a_child() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate(b"\n")


def test_a_child_is_seen_while_threads_end() -> None:
    ended = threading.Event()

    def start_and_end_threads() -> None:
        while not ended.is_set():
            short = [threading.Thread(target=lambda: None) for _ in range(8)]
            for each in short:
                each.start()
            for each in short:
                each.join()

    others = [threading.Thread(target=start_and_end_threads) for _ in range(2)]
    with a_child() as child:
        for each in others:
            each.start()
        try:
            missed = sum(child not in children_of(os.getpid()) for _ in range(LOOKS))
        finally:
            ended.set()
            for each in others:
                each.join()
    assert missed == 0


def test_a_thread_that_ended_takes_no_child_of_another_with_it(tmp_path: Path) -> None:
    for thread, children in (("1", "10 11 "), ("3", "12 ")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "children").write_text(children)
    found, is_whole = _listed_children(tmp_path)
    assert (sorted(found), is_whole) == ([10, 11, 12], True)
    (tmp_path / "2").mkdir()
    found, is_whole = _listed_children(tmp_path)
    assert (sorted(found), is_whole) == ([10, 11, 12], False)
    assert _listed_children(tmp_path / "gone") == ([], True)


def test_a_thread_that_ends_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for thread in ("1", "2"):
        (tmp_path / thread).mkdir()
    (tmp_path / "1" / "children").write_text("")

    def read_text(path: Path) -> str:
        if path.parent.name == "2":
            path.parent.rmdir()
        return ""

    monkeypatch.setattr(Path, "read_text", read_text)
    assert _listed_children(tmp_path) == ([], False)
    assert _listed_children(tmp_path) == ([], True)


def test_a_thread_that_ended_takes_no_wait_of_another_with_it(tmp_path: Path) -> None:
    for thread in ("1", "2", "3"):
        (tmp_path / "task" / thread).mkdir(parents=True)
    (tmp_path / "task" / "1" / "schedstat").write_text("7 500000000 3\n")
    (tmp_path / "task" / "3" / "schedstat").write_text("7 1500000000 3\n")
    assert _waits_of(tmp_path) == {1: 0.5, 3: 1.5}


def test_descendants_begin_with_the_process_itself() -> None:
    with a_child() as child:
        found = descendants_of(os.getpid())
        assert found[0] == os.getpid()
        assert child in found
        assert len(set(found)) == len(found)


def test_a_process_that_has_ended_has_no_children() -> None:
    with a_child() as child:
        pass
    assert children_of(child) == []
    assert descendants_of(child) == [child]
