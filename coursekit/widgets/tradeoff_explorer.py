"""TTFT against ITL against throughput: turn the SLO, the load and the device, see what is feasible.

`TradeoffExplorer` is the widget; the same picture as a plain function is `tradeoff` of
`coursekit.plots.tradeoff`. Everything is simulated; a new SLO is only judged anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets

from coursekit.analyzers.tradeoff import TOKEN_BUDGETS, WORKLOADS, sweep
from coursekit.cost import DEVICES
from coursekit.models import SHAPES
from coursekit.plots import style
from coursekit.plots.tradeoff import Tradeoff
from coursekit.schedulers import NAMES
from coursekit.widgets.explorer import Explorer

_STEPS = (1, 1.5, 2, 3, 4, 5, 6, 8)
_TTFT_SLOS_S = tuple(round(step * 10**power, 4) for power in (-1, 0, 1) for step in _STEPS)
_ITL_SLOS_S = tuple(round(step * 10**power, 4) for power in (-2, -1) for step in _STEPS)
_REQUEST_RATES = (1, 2, 3, 4, 6, 8, 12, 16)
_SWEPT = ("hardware", "model", "scheduler", "request_rate", "workload")
_MARKED = ("ttft_slo_s", "itl_slo_s", "token_budget")


class TradeoffExplorer(Explorer):
    """Controls for load, device, policy, SLO and budget, the verdict in words, and the picture.

    hardware, model, scheduler, request_rate (per second), workload, token_budgets: what is
    simulated first, as in `coursekit.analyzers.tradeoff.sweep`. ttft_slo_s, itl_slo_s: the SLO
    on the P99s, in seconds; token_budget: the learner's choice, the middle one if None.
    `controls` holds the menus by these names, `sliders` the sliders that go with some of them.
    Raises ValueError as `sweep` does, and for an SLO that is not > 0 or a budget not swept.
    """

    kind = "tradeoff explorer"

    def __init__(
        self,
        hardware: str = "a100",
        model: str = "llama-2-7b",
        scheduler: str = "token-budget",
        request_rate: float = 4,
        workload: str = "chat",
        ttft_slo_s: float = 1.0,
        itl_slo_s: float = 0.1,
        token_budget: int | None = None,
        token_budgets: Sequence[int] = TOKEN_BUDGETS,
    ):
        first = sweep(hardware, model, scheduler, request_rate, workload, token_budgets)
        self.token_budgets = tuple(point.token_budget for point in first.points)
        if token_budget is None:
            token_budget = self.token_budgets[len(self.token_budgets) // 2]
        self.tradeoff = Tradeoff(first)
        self.tradeoff.mark(ttft_slo_s, itl_slo_s, token_budget)  # refuses what can't be shown
        self.controls: dict[str, widgets.Dropdown] = {}
        self.sliders: dict[str, widgets.SelectionSlider] = {}
        self._add_menu("hardware", list(DEVICES), hardware, description="Device")
        self._add_menu("model", list(SHAPES), model, description="Model")
        self._add_menu("scheduler", list(NAMES), scheduler, description="Scheduler")
        self._add_menu("workload", list(WORKLOADS), workload, description="Requests")
        self._add_slider("request_rate", "Requests per second", request_rate, _REQUEST_RATES)
        in_seconds = style.format_seconds
        self._add_slider("ttft_slo_s", "TTFT P99 at most", ttft_slo_s, _TTFT_SLOS_S, in_seconds)
        self._add_slider("itl_slo_s", "ITL P99 at most", itl_slo_s, _ITL_SLOS_S, in_seconds)
        self._add_slider("token_budget", "Your budget", token_budget, self.token_budgets, _tokens)
        rows = [[self.controls[name] for name in ("hardware", "model", "scheduler", "workload")]]
        rows += [[slider, self.controls[name]] for name, slider in self.sliders.items()]
        for name, slider in self.sliders.items():
            widgets.link((slider, "value"), (self.controls[name], "value"))
        watched = list(self.controls.values())
        super().__init__(rows, watched, self.tradeoff.figure, self.tradeoff.layers)

    def _add_menu(self, name: str, options: Sequence, value, **look) -> None:
        menu = widgets.Dropdown(
            options=options, value=value, layout={"width": "235px"},
            style={"description_width": "initial"}, **look,
        )  # fmt: skip
        menu.add_class(f"coursekit-{name.replace('_', '-')}")
        self.controls[name] = menu

    def _add_slider(self, name: str, description: str, value, usual, show=str) -> None:
        """A slider, and a menu that reads it out: only a menu has a name for screen readers."""
        options = [(show(each), each) for each in sorted({*usual, value})]
        self._add_menu(name, options, value, tooltip=description)
        self.sliders[name] = widgets.SelectionSlider(
            description=description, options=options, value=value, readout=False,
            style={"description_width": "150px"}, layout={"width": "520px"},
        )

    def _update(self) -> tuple[int, str, str, str]:
        settings = {name: control.value for name, control in self.controls.items()}
        swept = sweep(*(settings[name] for name in _SWEPT), self.token_budgets)
        is_new = swept is not self.tradeoff.sweep
        if is_new:
            self.tradeoff.draw(swept)
        self.tradeoff.mark(*(settings[name] for name in _MARKED))
        readout = f"<p>{escape(self.tradeoff.explain())}</p>"
        layer = 0 if is_new else 1
        return layer, swept.label, readout, self.tradeoff.describe()


def _tokens(size: int) -> str:
    return f"{style.format_count(size)} tokens"
