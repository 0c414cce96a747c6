"""Which servers run: a small file for each in the user's cache, so that other processes find them.

A file may outlive its server; it counts only while the very process it names lives and answers.
"""

from __future__ import annotations

import fcntl
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, sleep, time

from coursekit.deploy.process import identity
from coursekit.models.store import cache_folder

ANSWER_S = 10.0
KEEP_LOGS_S = 7 * 86400.0
# Nothing of ours goes through a proxy that the environment names.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Entry:
    """A server that runs. key: of its settings; pid, began: of its main process; log: its file."""

    key: str
    base_url: str
    port: int
    model: str
    name: str
    pid: int
    began: float
    log: str

    @property
    def path(self) -> Path:
        return folder() / f"{self.key}-{self.port}.json"

    def lives(self) -> bool:
        return identity(self.pid) == self.began and is_healthy(self.base_url)


def folder() -> Path:
    """Where entries and logs are, this user's alone: COURSEKIT_SERVERS, else in the cache."""
    path = Path(os.environ.get("COURSEKIT_SERVERS") or cache_folder() / "servers")
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def entries() -> list[Entry]:
    """Of all servers that run; files of those that are gone are removed."""
    found = []
    for path in sorted(folder().glob("*.json")):
        try:
            entry = Entry(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            continue
        if entry.lives():
            found.append(entry)
        elif identity(entry.pid) != entry.began:  # else it lives and is too busy to answer
            forget(entry)
    return found


def save(entry: Entry) -> None:
    """Make the server known; the file appears whole or not at all."""
    partial = entry.path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(asdict(entry)))
    partial.replace(entry.path)


def new_log(key: str, port: int) -> Path:
    """An empty file for a server's log; logs of servers long gone make room."""
    for old in folder().glob("*.log"):
        if time() - old.stat().st_mtime > KEEP_LOGS_S and not old.with_suffix(".json").exists():
            old.unlink(missing_ok=True)
    path = folder() / f"{key}-{port}.log"
    path.write_text("")
    return path


def forget(entry: Entry) -> None:
    """Remove the server's file; its log stays for a while."""
    entry.path.unlink(missing_ok=True)


@contextmanager
def one_start_at_a_time(key: str, timeout_s: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold off others who would start a server of the same settings; dropped if this process dies.

    Raises TimeoutError if another has not done with it in `timeout_s`.
    """
    end_s, told = monotonic() + timeout_s, False
    with (folder() / f"{key}.lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() > end_s:
                    raise TimeoutError(
                        f"another process has been starting this server for {timeout_s:g} s: wait "
                        "for it, stop it, or raise timeout_s"
                    ) from None
            if not told:
                tell("Another process is starting this server; waiting for it ...")
                told = True
            sleep(0.5)
        yield


def is_healthy(base_url: str) -> bool:
    """Whether a server answers there that it is well."""
    try:
        get(f"{base_url}/health")
    except OSError:
        return False
    return True


def get(url: str, api_key: str | None = None, timeout_s: float = ANSWER_S) -> str:
    """The body of a page. Raises OSError if there is none, urllib's HTTPError included."""
    request = urllib.request.Request(url)
    if api_key:
        request.add_header("Authorization", f"Bearer {api_key}")
    with _direct.open(request, timeout=timeout_s) as response:
        return response.read().decode()
