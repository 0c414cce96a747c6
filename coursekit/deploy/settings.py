"""A configuration of vLLM for chunked prefill, in which every setting says why and on what authority.

Names and values are those of vLLM's `EngineArgs`. Where they come from is not known here: `presets`
and `recommend` make configurations, `configure` writes them out, `validate` asks vLLM about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Setting(NamedTuple):
    """One field of vLLM's `EngineArgs`: its value, the reason, and where that is from."""

    field: str
    value: object
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class ChunkedPrefillConfig:
    """What to start vLLM with. It can't be changed; `engine_args` is a copy.

    name: of the workload it is for. model: folder, hub id or name of a shape; None for the course's
    model. settings: one `Setting` a field. rationale: the whole in a sentence or two.
    """

    name: str
    model: str | None
    settings: tuple[Setting, ...]
    rationale: str

    @property
    def engine_args(self) -> dict[str, object]:
        """Field of `EngineArgs` -> value, the model left out: a new dict at each call."""
        return {setting.field: setting.value for setting in self.settings}

    def __getitem__(self, field: str) -> Setting:
        """The setting of a field. Raises KeyError for one that this configuration leaves to vLLM."""
        for setting in self.settings:
            if setting.field == field:
                return setting
        raise KeyError(field)

    def explain(self) -> str:
        """Rationale, then each setting with its reason and source, as lines."""
        lines = [f"{self.name}: {self.rationale}"]
        for setting in self.settings:
            lines += [
                "", f"{setting.field} = {setting.value}", f"    {setting.reason}",
                f"    source: {setting.source}",
            ]  # fmt: skip
        return "\n".join(lines)


def settings_of(engine_args: dict[str, object]) -> tuple[Setting, ...]:
    """Plain fields as settings, without reasons."""
    return tuple(Setting(field, value, "as given", "the caller") for field, value in engine_args.items())
