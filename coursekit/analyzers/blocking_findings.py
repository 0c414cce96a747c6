"""What an analysis of blocking time says, in one paragraph: the words follow the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coursekit.analyzers.findings import LEAST_CHANGE, in_words

if TYPE_CHECKING:
    from coursekit.analyzers.blocking_time import BlockingAnalysis, BlockingComparison

ALMOST_ALL = 0.9995
NOTABLE = 0.01  # share of the gaps from which other waiting is mentioned


def describe_blocking(analysis: BlockingAnalysis) -> str:
    """The findings of one `BlockingAnalysis`."""
    label, requests = analysis.label[0].upper() + analysis.label[1:], analysis.by_request
    if not analysis.num_gaps:
        return f"{label}. No request got a second token, so nobody could be blocked."
    if not analysis.blocked_s:
        return (
            f"{label}. No prefill of others ran between two tokens of any of {len(requests):,} "
            "requests: their blocking time is 0."
        )
    waited = requests[requests["num_gaps"] > 0]
    hit = int((waited["blocked_s"] > 0).sum())
    return (
        f"{label}. Of {in_words(analysis.itl_s)} between tokens of {len(waited):,} requests, "
        f"{in_words(analysis.blocked_s)} ({analysis.blocked_s / analysis.itl_s:.1%}) is blocking "
        f"by prefill of others; it hit {hit:,} of them. Over {analysis.num_gaps:,} gaps its P99 is "
        f"{in_words(analysis.gap_percentile_s(99))}, its worst {in_words(analysis.worst_s)}. "
        f"{_how(analysis)} {_who(analysis)}{_waiting(analysis)} Baseline: {analysis.baseline}."
    )


def _waiting(analysis: BlockingAnalysis) -> str:
    waiting_s = float(analysis.by_request["waiting_s"].sum())
    if waiting_s < NOTABLE * analysis.itl_s:
        return ""
    return (
        f" Another {in_words(waiting_s)} went by without a token for other reasons: preemptions, "
        "or time between iterations."
    )


def _how(analysis: BlockingAnalysis) -> str:
    share = analysis.by_request["standing_s"].sum() / analysis.blocked_s
    if share == 0:
        return "All of it lies in iterations that also gave the blocked requests a token."
    if share > ALMOST_ALL:
        return "All of it was spent standing still, in iterations that gave the blocked no token."
    return f"{share:.1%} of it was spent standing still, the rest in iterations that gave a token."


def _who(analysis: BlockingAnalysis) -> str:
    first = analysis.by_request.loc[analysis.by_request["caused_s"].idxmax()]
    return (
        f"Request {first.request:.0f}, with a prompt of {first.num_prompt_tokens:,.0f} tokens, "
        f"blocked others most: {in_words(first.caused_s)} in all, "
        f"{first.caused_s / analysis.blocked_s:.1%} of it."
    )


def describe_comparison(comparison: BlockingComparison) -> str:
    """The findings of a `BlockingComparison`."""
    before, after = comparison.before, comparison.after
    rows = comparison.table.set_index("what")
    total, worst, p99 = (
        rows.loc[what] for what in ("blocking of all requests", "worst gap", "P99 of a gap")
    )
    label = comparison.table.attrs["label"]
    said = (
        f"{label[0].upper()}{label[1:]}. {_change('Blocking of all requests', total)}; "
        f"{_change('its worst gap', worst)}; {_change('its P99', p99)}, over {before.num_gaps:,} "
        f"gaps before and {after.num_gaps:,} after."
    )
    if worst.reduction > LEAST_CHANGE >= total.reduction:
        more = "there is more of it" if total.reduction < -LEAST_CHANGE else "it is as much"
        said += f" It is spread over more gaps, not taken away: in all {more}."
    fewer = int((comparison.by_request["saved_s"] > 0).sum())
    return f"{said} {fewer:,} of {len(comparison.by_request):,} requests are blocked for less time."


def _change(name: str, row) -> str:
    old, new = in_words(row.before), in_words(row.after)
    if row.before != row.before or row.after != row.after:
        return f"{name} can't be compared, as a run has no gaps"
    if row.before == row.after or abs(row.reduction) < LEAST_CHANGE:
        return f"{name} stays at {old}"
    if not row.before:
        return f"{name} rises from 0 to {new}"
    word = "falls" if row.reduction > 0 else "rises"
    return f"{name} {word} from {old} to {new}, by {abs(row.reduction):.0%}"
