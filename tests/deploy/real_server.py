"""One real vLLM server for the whole session of pytest: `server`, for whoever asks."""

import importlib.util
import os
import sys

import pytest

has_vllm = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not has_vllm, reason="vLLM is not installed here")


@pytest.fixture(scope="session", autouse=True)
def servers_folder(tmp_path_factory):
    """Where this session keeps which servers run: it neither uses nor disturbs those of others."""
    before = os.environ.get("COURSEKIT_SERVERS")
    os.environ["COURSEKIT_SERVERS"] = str(tmp_path_factory.mktemp("servers"))
    yield os.environ["COURSEKIT_SERVERS"]
    if before is None:
        del os.environ["COURSEKIT_SERVERS"]
    else:
        os.environ["COURSEKIT_SERVERS"] = before


@pytest.fixture(scope="session")
def server(servers_folder):
    """A running server: mixed_interactive, the course's model. Leave it running."""
    if not has_vllm:
        pytest.skip("vLLM is not installed here")
    from coursekit.deploy import deploy_chunked_prefill

    with deploy_chunked_prefill("mixed_interactive", log=_tell) as running:
        yield running


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
