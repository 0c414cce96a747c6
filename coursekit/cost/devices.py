"""What devices can do at most, as their makers say: the ceilings of a roofline.

Rates are those of dense bf16 or fp16 matrices with float32 accumulation, which is what
serving engines use; the doubled figures "with sparsity" of many datasheets are not. No model
reaches these ceilings: which fraction it does is an `Efficiency`, beside them, not in them.
"""

from __future__ import annotations

from dataclasses import dataclass

LAUNCH_S = 5e-6  # one CUDA kernel from Python, seen on the device as a gap: a rule of thumb


@dataclass(frozen=True, slots=True)
class Hardware:
    """Ceilings of one device.

    flop_per_s: dense 16-bit matrix rate; bytes_per_s: memory bandwidth; memory_bytes: its
    memory, nominal; link_bytes_per_s: what it sends to a peer, in one direction; source:
    where the figures are from; launch_s: seconds of overhead per kernel; tile: tokens that a
    matrix kernel rounds a batch up to.

    The tile of GPUs is 128. On an A6000 LLaMA-13B takes 69.8 ms for 256 tokens and 92.3 ms
    for 257 (Sarathi, arXiv 2308.16369).
    """

    name: str
    flop_per_s: float
    bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float
    source: str
    launch_s: float = LAUNCH_S
    tile: int = 128

    def __post_init__(self):
        for field in ("flop_per_s", "bytes_per_s", "memory_bytes", "link_bytes_per_s", "tile"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} of {self.name} must be > 0, got {getattr(self, field)}")
        if self.launch_s < 0:
            raise ValueError(f"launch_s of {self.name} must be >= 0, got {self.launch_s}")

    @property
    def ridge(self) -> float:
        """FLOP per byte at which both ceilings meet: below it memory is the bottleneck."""
        return self.flop_per_s / self.bytes_per_s


def _gpu(name: str, tflops: float, gb_per_s: float, gib: float, link_gb_per_s: float, source: str):
    return Hardware(
        f"NVIDIA {name}", tflops * 1e12, gb_per_s * 1e9, gib * 2**30, link_gb_per_s * 1e9, source
    )


_A100 = "NVIDIA A100 Tensor Core GPU datasheet (2022)"
_H100 = "NVIDIA H100 Tensor Core GPU datasheet; half of the figure with sparsity"

DEVICES: dict[str, Hardware] = {
    "t4": _gpu("T4", 65, 320, 16, 16, "NVIDIA T4 datasheet and Turing whitepaper; fp16 only"),
    "l4": _gpu("L4", 121, 300, 24, 32, "NVIDIA L4 datasheet; half of the figure with sparsity"),
    "a10": _gpu("A10", 125, 600, 24, 32, "NVIDIA A10 datasheet"),
    "a40": _gpu("A40", 149.7, 696, 48, 56.25, "NVIDIA A40 datasheet; NVLink bridge"),
    "a6000": _gpu(
        "RTX A6000", 154.8, 768, 48, 56.25,
        "NVIDIA RTX A6000 datasheet, half of the figure with sparsity; NVLink bridge",
    ),
    "a100": _gpu("A100 80GB SXM", 312, 2039, 80, 300, _A100),
    "a100-pcie": _gpu("A100 80GB PCIe", 312, 1935, 80, 300, f"{_A100}; NVLink bridge"),
    "a100-40gb": _gpu("A100 40GB SXM", 312, 1555, 40, 300, _A100),
    "a100-40gb-pcie": _gpu("A100 40GB PCIe", 312, 1555, 40, 300, f"{_A100}; NVLink bridge"),
    "h100": _gpu("H100 80GB SXM", 989.4, 3350, 80, 450, _H100),
    "h100-pcie": _gpu("H100 80GB PCIe", 756, 2000, 80, 300, f"{_H100}; NVLink bridge"),
    "h200": _gpu(
        "H200 SXM", 989.4, 4800, 141, 450,
        "NVIDIA H200 Tensor Core GPU datasheet; half of the figure with sparsity",
    ),
    "rtx4090": _gpu(
        "GeForce RTX 4090", 165.2, 1008, 24, 32,
        "NVIDIA Ada GPU architecture whitepaper, fp16 with fp32 accumulation",
    ),
}  # fmt: skip


def find_hardware(name: str | Hardware) -> Hardware:
    """The device of this name, "a100" for instance; a `Hardware` is returned as it is.

    Raises ValueError for an unknown name.
    """
    if isinstance(name, Hardware):
        return name
    if name not in DEVICES:
        raise ValueError(
            f"hardware must be one of {', '.join(sorted(DEVICES))}, got {name!r}; for another "
            "device pass a Hardware of your own, or measured_cpu() for this machine"
        )
    return DEVICES[name]


def measured_cpu(seconds: float = 1.0) -> Hardware:
    """This machine's CPU: ceilings measured here and now in float32, each over `seconds`.

    Use it with `RooflineCost(..., bytes_per_value=4, efficiency="measured")`: ceilings that
    were measured need no further discount. Its tile is 1, since nothing is rounded up far.
    """
    import torch

    from coursekit.analyzers.ceilings import measure_ceilings
    from coursekit.device import detect_device

    ceilings = measure_ceilings("cpu", torch.float32, seconds)
    device = detect_device("cpu")
    return Hardware(
        device.label(), ceilings.flop_per_s, ceilings.bytes_per_s, device.memory_bytes,
        ceilings.bytes_per_s, f"measured, {ceilings.label}", tile=1,
    )  # fmt: skip
