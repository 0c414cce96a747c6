"""`coursekit monitor`: what a running server does, what is wrong with it and what to turn."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from coursekit.cost.base import CostModel
from coursekit.metrics import Slo
from coursekit.monitor.advice import ServerSettings, advise
from coursekit.monitor.alerts import AlertBoard, default_rules
from coursekit.monitor.report import describe_counsel, describe_reading
from coursekit.monitor.scraper import MetricsScraper


def run_and_report(options: argparse.Namespace) -> int:
    """Watch until Ctrl-C, or once; exit code 1 if a server that is looked at once does not answer.

    Once means two looks, `interval` apart: counters tell nothing at a single one.
    """
    slo = Slo(itl_s=options.slo_itl, ttft_s=options.slo_ttft)
    settings = ServerSettings(options.token_budget, options.max_num_seqs)
    cost = find_cost(options.cost, options.hardware, options.model)
    scraper = MetricsScraper(options.url, options.interval, window_s=options.window)
    board = AlertBoard(default_rules(slo))
    try:
        scraper.scrape_once()
        while True:
            time.sleep(options.interval)
            answered = scraper.scrape_once()
            reading = scraper.reading()
            events = board.update(reading, time.monotonic())
            print(f"--- {datetime.now():%H:%M:%S}")
            print(describe_reading(reading))
            for event in events:
                print(f"! {event}")
            print(describe_counsel(advise(reading, slo, settings, cost)), flush=True)
            if options.once:
                if not answered:
                    raise RuntimeError(f"{scraper.url} does not answer: {scraper.last_error}")
                return 0
    finally:
        scraper.stop()


def find_cost(profile: str | None, hardware: str | None, model: str | None) -> CostModel | None:
    """The cost model that the options name: a profile, or a roofline of `hardware` and `model`.

    Raises ValueError for both, for half a roofline, and for unknown names.
    """
    from coursekit.cost import RooflineCost, recorded_cost

    if profile is not None:
        if hardware is not None or model is not None:
            raise ValueError("give either --cost or --hardware and --model, got both")
        return recorded_cost(profile)
    if (hardware is None) != (model is None):
        raise ValueError("--hardware and --model go together, got one of them")
    return None if hardware is None else RooflineCost(hardware, model)
