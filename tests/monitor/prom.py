"""A real Prometheus (Debian package) for tests, and the expressions that deploy/ ships."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="Prometheus is not installed here (Debian, Ubuntu: apt install prometheus)",
)
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*", "$window": "1m", "$before": "1m"}


def dashboard() -> dict:
    return json.loads((DEPLOY / "grafana-dashboard.json").read_text())


def dashboard_expressions() -> list[str]:
    """Every PromQL expression of the dashboard, annotations and variables too, with values put in."""
    found = dashboard()
    expressions = [target["expr"] for panel in found["panels"] for target in panel["targets"]]
    expressions += [note["expr"] for note in found["annotations"]["list"] if "expr" in note]
    for name, value in VARIABLES.items():
        expressions = [text.replace(name, value) for text in expressions]
    return expressions


def rules() -> list[dict]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """The metrics that an expression asks for, what Prometheus makes itself left out."""
    return set(re.findall(r"\b(?:vllm:|process_)[a-zA-Z0-9_:]+", expression))


class Prometheus:
    """A Prometheus with deploy/'s rules that scrapes one target every second, in `folder`."""

    def __init__(self, folder: Path, target: str):
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = config["scrape_configs"]
        job["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(DEPLOY / "alerts.yml", folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._log = (folder / "log.txt").open("w")
        self._process = subprocess.Popen(
            ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={self.url.removeprefix('http://')}"],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def get(self, path: str, **parameters) -> dict:
        """The `data` of an answer of its HTTP API. Raises AssertionError with its error message."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}{query}", timeout=10) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[float]:
        """The values of an instant query."""
        return [float(row["value"][1]) for row in self.get("query", query=expression)["result"]]

    def wait_until(self, expression: str, wanted, seconds: float = 60.0) -> list[float]:
        """Ask until `wanted(values)`."""
        end_s = time.monotonic() + seconds
        while True:
            try:
                values = self.query(expression)
            except urllib.error.URLError:  # it is not up yet
                values = []
            if wanted(values):
                return values
            assert time.monotonic() < end_s and self._process.poll() is None, f"{expression}: {values}"
            time.sleep(0.2)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
