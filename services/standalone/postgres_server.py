"""A real PostgreSQL on a free loopback port, for the length of a `with` statement: for tests and benchmarks."""

import csv
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.runtime.free_ports import free_port

_HOST = "127.0.0.1"
_USER = "evalfleet"
_START_SECONDS = 60.0
# Nothing survives a power cut, and need not; a killed process loses nothing all the same.
_SETTINGS = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=200", "log_min_messages=log")


def postgres_folder() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest if there are several; None if it is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda each: float(each.parts[-3]))
    return versions[-1].parent if versions else None


class PostgresError(Exception):
    """PostgreSQL is away, or refuses what it was asked."""


def _check(done: "subprocess.CompletedProcess[bytes]") -> None:
    if done.returncode != 0:
        raise PostgresError(done.stderr.decode(errors="replace"))


class PostgresServer:
    """A running server that everybody on this machine may use without a password; see ``running_postgres``.

    Attributes:
        port: where it listens.
        folder: of its data and its log.
    """

    def __init__(self, programs: Path, folder: Path, *, source: "PostgresServer | None" = None) -> None:
        """Make a new server in a folder, or a standby of a running one."""
        self.port = free_port(_HOST)
        self.folder = folder
        self._programs = programs
        self._databases = 0
        # It refuses to run as root. Python's own change of user would fork this process, with gRPC's threads in it.
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._as_user = as_user if os.geteuid() == 0 else []
        self._process: subprocess.Popen[bytes] | None = None
        if self._as_user:
            shutil.chown(folder, "postgres", "postgres")
        self._data = folder / "data"
        if source is None:
            named = ["--auth=trust", f"--username={_USER}", "-E", "UTF8", "--locale=C.UTF-8"]
            _check(self._run(["initdb", f"--pgdata={self._data}", "--no-sync", *named]))
        else:
            source.copy(self._data, "--write-recovery-conf")

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            PostgresError: it does not.
        """
        give_up_at = time.monotonic() + _START_SECONDS
        process = self._launch()
        while self._run(["pg_isready", "-q", "-h", _HOST, "-p", str(self.port)]).returncode != 0:
            if time.monotonic() > give_up_at:
                raise PostgresError("PostgreSQL did not answer")
            time.sleep(0.05)
            if process.poll() is not None:
                # The children of one that was killed may still be about to notice.
                process = self._launch()
        self._process = process

    def stop(self) -> None:
        """End it at once, cutting all connections."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def copy(self, folder: Path, *options: str) -> None:
        """Copy all of its files to a new folder, as they are at one moment, while others use it."""
        named = ["-h", _HOST, "-p", str(self.port), "-U", _USER, "--checkpoint=fast", "--no-sync"]
        _check(self._run(["pg_basebackup", f"--pgdata={folder}", *named, *options]))

    def go_back(self, copied: Path) -> None:
        """End it as a crash would, and start it at the same address with what ``copy`` has kept."""
        self.kill()
        shutil.rmtree(self._data)
        copied.rename(self._data)
        self.start()

    def new_database(self) -> str:
        """Make an empty database and return its URL, as people write it."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.query(self.url("postgres"), f"CREATE DATABASE {name}")
        return self.url(name)

    @contextmanager
    def standby(self, *, is_synchronous: bool = True) -> Iterator["PostgresServer"]:
        """Run a server that follows this one.

        Args:
            is_synchronous: whether this one acknowledges nothing from now on that the other does not have.
        """
        with _server_folder() as folder:
            follower = PostgresServer(self._programs, folder, source=self)
            try:
                follower.start()
                if is_synchronous:
                    self.query(self.url("postgres"), "ALTER SYSTEM SET synchronous_standby_names = '*'")
                    self.query(self.url("postgres"), "SELECT pg_reload_conf()")
                yield follower
            finally:
                follower.stop()

    def promote(self) -> None:
        """Let a standby take writes from now on; its commits wait for no other server."""
        self.query(self.url("postgres"), "SELECT pg_promote()")

    def dump(self, url: str) -> Path:
        """Back a database up, as it is at one moment, while others use it."""
        backup = self.folder / f"{self._databases}.dump"
        _check(self._run(["pg_dump", "--format=custom", f"--file={backup}", url]))
        return backup

    def restore(self, backup: Path) -> str:
        """Make a new database from a backup and return its URL."""
        url = self.new_database()
        _check(self._run(["pg_restore", "--exit-on-error", f"--dbname={url}", str(backup)]))
        return url

    def query(self, url: str, statement: str) -> list[dict[str, str]]:
        """Return what a statement finds in a database, by column, as text.

        Raises:
            PostgresError: the server is away, or refuses the statement.
        """
        done = self._run(["psql", "-X", "--quiet", "--csv", "-v", "ON_ERROR_STOP=1", "-c", statement, url])
        _check(done)
        return list(csv.DictReader(done.stdout.decode().splitlines()))

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://{_USER}@{_HOST}:{self.port}/{database}"

    def _launch(self) -> "subprocess.Popen[bytes]":
        options = [option for each in _SETTINGS for option in ("-c", each)]
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-h", _HOST, "-p", str(self.port), "-k", ""]
        with (self.folder / "postgres.log").open("ab") as log:
            return subprocess.Popen(
                [*self._as_user, *command, *options], stdout=log, stderr=log, cwd="/", start_new_session=True
            )

    def _end(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(_START_SECONDS)

    def _run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        program, *arguments = command
        return subprocess.run(
            [*self._as_user, str(self._programs / program), *arguments],
            cwd="/",
            capture_output=True,
            check=False,
            timeout=_START_SECONDS,
        )


@contextmanager
def running_postgres() -> Iterator[PostgresServer | None]:
    """Yield a running server, or None where PostgreSQL is not installed."""
    programs = postgres_folder()
    if programs is None:
        yield None
        return
    with _server_folder() as folder:
        server = PostgresServer(programs, folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def _server_folder() -> Iterator[Path]:
    # Not below pytest's folder, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="evalfleet-postgres-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)
        made = Path(folder) / "server"
        made.mkdir()
        yield made
