"""What an iteration costs on a device, from first principles: the slower of computing and moving.

Linear layers read their weights once an iteration, however many tokens ride along; attention
is counted by each chunk's own context; the rest is overhead. It knows nothing of kernels
beyond the fractions of the ceilings that they reach, which are an `Efficiency`, with a source.
Softmax, norms and activations have no term of their own: they are in those fractions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from coursekit.cost.base import Chunks
from coursekit.cost.devices import Hardware, find_hardware
from coursekit.models.config import SHAPES, ModelConfig

ALL_REDUCES_PER_LAYER = 2  # after attention and after the feed-forward (Megatron, arXiv 1909.08053)


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What software makes of a device: fractions of its ceilings, and its own overhead.

    compute, attention: of the FLOP rate, by linear layers and by attention of chunks;
    bandwidth, kv_bandwidth, link: of the bytes per second, reading weights, reading the KV
    cache, and between devices; kernels_per_layer: launches, each `Hardware.launch_s`;
    iteration_s: seconds of everything else once an iteration, mostly the host's.
    """

    source: str
    compute: float
    attention: float
    bandwidth: float
    kv_bandwidth: float
    link: float = 0.7
    kernels_per_layer: float = 10
    iteration_s: float = 0.0

    def __post_init__(self):
        for name in ("compute", "attention", "bandwidth", "kv_bandwidth", "link"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a fraction in (0, 1], got {getattr(self, name)}")
        for name in ("kernels_per_layer", "iteration_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


EFFICIENCIES: dict[str, Efficiency] = {
    "typical": Efficiency(
        "assumed, for a present engine with CUDA graphs: not measured by us",
        compute=0.75, attention=0.6, bandwidth=0.85, kv_bandwidth=0.85,
        kernels_per_layer=2, iteration_s=1e-3,
    ),
    "sarathi-a100": Efficiency(
        "fitted to six times of Yi-34B on two A100 80GB PCIe in Sarathi-Serve's artifact "
        "(OSDI 2024): prefill of 512, 2048 and 8192 tokens, decode batches of 1, 16 and 128; "
        "bandwidth and link are assumed. Its kv_bandwidth stands for all that grows with a "
        "decode: kernels blind to grouped heads, and host time per sequence",
        compute=0.78, attention=0.15, bandwidth=0.85, kv_bandwidth=0.06, iteration_s=24e-3,
    ),
    "sarathi-serving": Efficiency(
        "fitted to Sarathi-Serve (OSDI 2024) as it served: Yi-34B's prefills of its artifact, whole "
        "(figure 2) and chunked (figure 9), and the paper's decode iterations of 32 requests with "
        "4K context, a fifth of the strict SLOs (Yi-34B 40 ms, Mistral-7B 20 ms). The artifact's "
        "decode times (figure 2) are left out: with them its own ablation would be overloaded. "
        "Within 20% of all but the prefill of 128 tokens; bandwidth and link are assumed",
        compute=0.61, attention=0.32, bandwidth=0.85, kv_bandwidth=0.85, kernels_per_layer=18,
        iteration_s=1e-3,
    ),
    "measured": Efficiency(
        "none: for ceilings that were themselves measured",
        compute=1.0, attention=1.0, bandwidth=1.0, kv_bandwidth=1.0, kernels_per_layer=0,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Seconds of one iteration by part; they sum to `total_s`.

    overhead: launches, host and waiting for other devices; linear: the layers' matrices;
    head: the output projection; prefill_attention, decode_attention; kv_write: storing new
    keys and values; all_reduce: adding up partial results of tensor parallelism.
    """

    overhead: float
    linear: float
    head: float
    prefill_attention: float
    decode_attention: float
    kv_write: float
    all_reduce: float
    linear_bound: str  # "compute" or "memory": which of the two the linear layers wait for

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each part by its name."""
        names = [field.name for field in fields(self) if field.name != "linear_bound"]
        return {name: getattr(self, name) for name in names}

    @property
    def total_s(self) -> float:
        """Seconds of the whole iteration."""
        return sum(self.parts.values())

    @property
    def dominant(self) -> str:
        """Name of the part that takes longest."""
        return max(self.parts, key=self.parts.get)


class RooflineCost:
    """A cost model from a device's ceilings and a model's shape.

    hardware: a name of `DEVICES`, or a `Hardware`; model: a name of `SHAPES`, or a
    `ModelConfig`; tensor_parallel: devices that share each layer; efficiency: a name of
    `EFFICIENCIES`, or an `Efficiency`; tile: tokens that a batch is rounded up to, the
    hardware's if None; bytes_per_value: of weights and KV cache, 2 for bf16.

    The output projection is counted for one token of each chunk, as vLLM computes it, even
    where the prompt goes on. A chunk of one token costs what a decode does. A tile below the
    ridge costs small batches nothing: they wait for the weights anyway.

    Raises ValueError for an unknown name, a value out of range, or weights that do not fit.
    Held against Sarathi-Serve's measured times in tests/cost/test_roofline.py.
    """

    def __init__(
        self,
        hardware: str | Hardware,
        model: str | ModelConfig,
        tensor_parallel: int = 1,
        efficiency: str | Efficiency = "typical",
        tile: int | None = None,
        bytes_per_value: int = 2,
    ):
        self.hardware = find_hardware(hardware)
        self.model = _find("model", model, SHAPES, ModelConfig)
        self.efficiency = _find("efficiency", efficiency, EFFICIENCIES, Efficiency)
        self.tensor_parallel = tensor_parallel
        self.tile = self.hardware.tile if tile is None else tile
        self.bytes_per_value = bytes_per_value
        self._check()
        devices = f"{tensor_parallel} x " if tensor_parallel > 1 else ""
        self.label = f"simulated ({devices}{self.hardware.name}, {self.model.name}, roofline)"
        self._set_coefficients()

    def iteration_s(self, num_decodes: int, decode_context: int, chunks: Chunks) -> float:
        """Seconds of one iteration; see `coursekit.cost.base`."""
        (
            overhead_s, tile, linear_tile_s, weights_s, head_tile_s, head_weights_s,
            token_s, context_s, pair_s, kv_s,
        ) = self._coefficients  # fmt: skip
        num_tokens, num_sequences, attention = num_decodes, num_decodes, 0.0
        for _, size, context in chunks:
            num_tokens += size
            num_sequences += 1
            compute = pair_s * (size * context + size * (size + 1) // 2)
            read = kv_s * (context + size)
            attention += compute if compute > read else read
        linear = -(-num_tokens // tile) * linear_tile_s
        if linear < weights_s:
            linear = weights_s
        head = -(-num_sequences // tile) * head_tile_s
        if head < head_weights_s:
            head = head_weights_s
        fixed = overhead_s + linear + head + token_s * num_tokens + attention
        return fixed + context_s * (decode_context + num_decodes)

    def decode_run_s(
        self, num_decodes: int, decode_context: int, num_iterations: int
    ) -> np.ndarray:
        """Seconds of consecutive iterations of decodes alone; see `coursekit.cost.base`."""
        fixed = self.iteration_s(num_decodes, -num_decodes, ())  # without any context
        contexts = np.arange(num_iterations) * num_decodes + (decode_context + num_decodes)
        return fixed + self._context_s * contexts

    def breakdown(self, num_decodes: int, decode_context: int, chunks: Chunks) -> Breakdown:
        """The same seconds by part, and what the linear layers wait for."""
        num_tokens = num_decodes + sum(size for _, size, _ in chunks)
        num_tiles = -(-num_tokens // self.tile)
        num_head_tiles = -(-(num_decodes + len(chunks)) // self.tile)
        compute = num_tiles * self._linear_tile_s
        pairs = [(size * context + size * (size + 1) // 2) for _, size, context in chunks]
        reads = [context + size for _, size, context in chunks]
        attention = [max(self._pair_s * p, self._kv_s * r) for p, r in zip(pairs, reads)]
        return Breakdown(
            overhead=self._overhead_s,
            linear=max(compute, self._weights_s),
            head=max(num_head_tiles * self._head_tile_s, self._head_weights_s),
            prefill_attention=sum(attention),
            decode_attention=self._context_s * (decode_context + num_decodes),
            kv_write=self._kv_write_s * num_tokens,
            all_reduce=self._all_reduce_s * num_tokens,
            linear_bound="compute" if compute > self._weights_s else "memory",
        )

    def _set_coefficients(self) -> None:
        """All seconds per unit of work on one device, computed once."""
        model, device, shares = self.model, self.hardware, self.tensor_parallel
        efficiency, width = self.efficiency, self.bytes_per_value
        flop_s = 1 / (device.flop_per_s * efficiency.compute * shares)
        byte_s = 1 / (device.bytes_per_s * efficiency.bandwidth * shares)
        head = model.vocab_size * model.hidden_size
        self._linear_tile_s = 2 * model.num_linear_parameters * self.tile * flop_s
        self._weights_s = model.num_linear_parameters * width * byte_s
        self._head_tile_s = 2 * head * self.tile * flop_s
        self._head_weights_s = head * width * byte_s
        pair_flop = 4 * model.num_layers * model.num_heads * model.head_dim
        self._pair_s = pair_flop / (device.flop_per_s * efficiency.attention * shares)
        kv_bytes = model.kv_bytes_per_token(width)
        # with fewer KV heads than devices, each device still keeps one whole head
        kv_shares = min(shares, model.num_kv_heads)
        self._kv_s = kv_bytes / (device.bytes_per_s * efficiency.kv_bandwidth * kv_shares)
        self._context_s = max(self._pair_s, self._kv_s)  # of one token that attends to another
        self._kv_write_s = kv_bytes / (device.bytes_per_s * efficiency.bandwidth * kv_shares)
        self._set_overheads()
        token_s = self._kv_write_s + self._all_reduce_s
        self._coefficients = (
            self._overhead_s, self.tile, self._linear_tile_s, self._weights_s, self._head_tile_s,
            self._head_weights_s, token_s, self._context_s, self._pair_s, self._kv_s,
        )  # fmt: skip

    def _set_overheads(self) -> None:
        """Launches, and the all-reduces: a ring sends 2 (n - 1) / n of the data from each."""
        model, device, shares = self.model, self.hardware, self.tensor_parallel
        launches = self.efficiency.kernels_per_layer
        if shares > 1:
            launches += ALL_REDUCES_PER_LAYER * 2 * (shares - 1)  # one step per neighbour
        overhead = model.num_layers * launches * device.launch_s
        self._overhead_s = self.efficiency.iteration_s + overhead
        sent = 2 * (shares - 1) / shares * model.hidden_size * self.bytes_per_value
        link = device.link_bytes_per_s * self.efficiency.link
        self._all_reduce_s = ALL_REDUCES_PER_LAYER * model.num_layers * sent / link

    def _check(self) -> None:
        for name in ("tensor_parallel", "tile", "bytes_per_value"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.model.num_heads % self.tensor_parallel:
            raise ValueError(
                f"tensor_parallel must divide the {self.model.num_heads} heads of "
                f"{self.model.name}, got {self.tensor_parallel}"
            )
        needed = self.model.num_parameters * self.bytes_per_value
        if needed > self.tensor_parallel * self.hardware.memory_bytes:
            raise ValueError(
                f"{self.model.name} needs {needed / 2**30:.0f} GiB for its weights, "
                f"{self.tensor_parallel} x {self.hardware.name} have "
                f"{self.tensor_parallel * self.hardware.memory_bytes / 2**30:.0f} GiB; raise "
                "tensor_parallel or choose another device"
            )


def _find(what: str, name, registry: dict, kind: type):
    """The registered object of this name; an object of `kind` is returned as it is."""
    if isinstance(name, kind):
        return name
    if name not in registry:
        known = ", ".join(sorted(registry))
        raise ValueError(
            f"{what} must be one of {known}, got {name!r}; or pass a {kind.__name__} of your own"
        )
    return registry[name]
