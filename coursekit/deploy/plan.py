"""What server to run: a configuration with the caller's changes, and where it listens."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import os
from dataclasses import dataclass

from coursekit.deploy.adaptive import CEILING, adaptive_settings, control_for
from coursekit.deploy.command import server_command, server_environment, vllm_package
from coursekit.deploy.presets import get_chunked_prefill_config
from coursekit.deploy.settings import ChunkedPrefillConfig, Setting
from coursekit.models import SHAPES, resolve_model

LOOPBACK = "127.0.0.1"
# What in the environment makes another engine of the same arguments.
OF_THE_ENGINE = (
    "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_CPU_OMP_THREADS_BIND",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """A server before it runs. folder: of the model's weights; model: its name for clients.

    note: what the caller should know of the choice, "" if nothing.
    """

    config: ChunkedPrefillConfig
    folder: str
    model: str
    host: str
    api_key: str | None
    note: str = ""

    def command(self, port: int) -> list[str]:
        return server_command(self.config.engine_args, self.folder, port, self.host, self.model)

    def environment(self) -> dict[str, str]:
        return server_environment(self.api_key)

    def key(self) -> str:
        """Equal for servers that are interchangeable; the port is left out, the API key hashed."""
        told = [
            self.config.engine_args, self.folder, self.model, self.host, self.api_key,
            vllm_package(), [os.environ.get(name) for name in OF_THE_ENGINE],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def base_url(self, port: int) -> str:
        """Where this machine's clients find it."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_plan(
    preset: str | ChunkedPrefillConfig, model: str | None = None, host: str = LOOPBACK,
    api_key: str | None = None, adaptive: float | dict | None = None,
    token_budget: int | None = None, max_model_len: int | None = None,
) -> ServerPlan:  # fmt: skip
    """See `deploy_chunked_prefill` for the arguments and what it raises."""
    api_key = _key_for(host, api_key)
    config = preset
    if isinstance(preset, str):
        config = get_chunked_prefill_config(preset, model, max_model_len)
    elif max_model_len is not None:
        config = _with(config, Setting("max_model_len", max_model_len, "as given", "the caller"))
    name = model or config.model
    if name in SHAPES:
        raise ValueError(f"model {name!r} is a shape without weights: pass a folder or a hub id")
    folder = resolve_model(name)
    served = name if name and "/" in name and not folder.samefile(name) else folder.name
    note = ""
    if adaptive is not None:
        config, note = _made_adaptive(config, adaptive, folder.name)
    if token_budget is not None:
        config = _with_budget(config, token_budget)
    return ServerPlan(config, str(folder), served, host, api_key, note)


def _made_adaptive(
    config: ChunkedPrefillConfig, adaptive: float | dict, model: str
) -> tuple[ChunkedPrefillConfig, str]:
    if isinstance(adaptive, dict):
        options, why = adaptive, "by the options that were given"
    else:
        options, why = control_for(float(adaptive), model)
    budget = max(CEILING, config.engine_args.get("max_num_batched_tokens") or 0)
    reason = "the most that the controller may choose; vLLM's default for servers, at least"
    changes = (
        Setting("max_num_batched_tokens", budget, reason, "vLLM, vllm/engine/arg_utils.py"),
        # vLLM's own cap, which the policy in its place does not look at
        Setting("long_prefill_token_threshold", 0, "the policy shares the budget", "coursekit"),
        *adaptive_settings(options, why),
    )
    return _with(config, *changes), f"The token budget is chosen in each iteration {why}."


def _with_budget(config: ChunkedPrefillConfig, token_budget: int) -> ChunkedPrefillConfig:
    """Fewer requests run at once, too, where vLLM would refuse the budget for their number."""
    if token_budget < 1:
        raise ValueError(f"token_budget must be >= 1, got {token_budget}: 512 is a start")
    changes = [Setting("max_num_batched_tokens", token_budget, "as given", "the caller")]
    if (config.engine_args.get("max_num_seqs") or 0) > token_budget:
        reason = "each running request takes a token of the iteration's budget"
        source = "vLLM, vllm/config/scheduler.py"
        changes.append(Setting("max_num_seqs", token_budget, reason, source))
    return _with(config, *changes)


def _with(config: ChunkedPrefillConfig, *changes: Setting) -> ChunkedPrefillConfig:
    """The configuration with settings replaced or added."""
    changed = {setting.field: setting for setting in (*config.settings, *changes)}
    return dataclasses.replace(config, settings=tuple(changed.values()))


def _key_for(host: str, api_key: str | None) -> str | None:
    """The key that clients must show. Raises ValueError if others could come and there is none."""
    api_key = os.environ.get("VLLM_API_KEY") or None if api_key is None else api_key
    if api_key == "":
        raise ValueError("api_key must not be empty: leave it out, or pass a secret")
    if not is_loopback(host) and api_key is None:
        raise ValueError(
            f"host {host!r} lets others reach the server, so it needs an API key: pass api_key "
            f"(--api-key), set VLLM_API_KEY, or stay on {LOOPBACK}"
        )
    return api_key


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than localhost counts as not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
