"""What ``txbroker doctor`` does: it tries what clients do, one step after the other."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException

from broker.app.client.findings import Finding
from broker.app.client.output import emit, emit_json
from broker.app.client.probes import PROBES
from broker.app.client.reaching import Reach, proxies_of_environment
from broker.app.client.streaming import check_idle, check_stream

MARKS = {True: "ok", False: "wrong", None: "note"}


def examine(reach: Reach, wanted: tuple[str, ...], idle: float, *, as_json: bool) -> bool:
    """Print what is found, and return whether nothing is wrong.

    Args:
        reach: the way to the broker.
        wanted: the dialects that it must have; without any, those that it has.
        idle: seconds for which a connection has to stay that says nothing; 0: that is not tried.
        as_json: whether JSON is printed.
    """
    fine = True
    for finding in findings(reach, wanted, idle):
        fine = fine and finding.fine is not False
        if as_json:
            told = {"check": finding.check, "fine": finding.fine, "text": finding.text}
            emit_json({**told, **({"remedy": finding.remedy} if finding.remedy else {})})
            continue
        emit(f"{MARKS[finding.fine]:<6} {finding.check:<12} {finding.text}")
        if finding.remedy:
            emit(f"{'':<19} {finding.remedy}")
    return fine


def findings(reach: Reach, wanted: tuple[str, ...], idle: float) -> Iterator[Finding]:
    """Yield what is found; what needs a step that has failed is not tried."""
    proxies = proxies_of_environment()
    if proxies:
        yield Finding("environment", None, f"{', '.join(proxies)}: other commands go through that, and this does not")
    for check in (reach.check_port, reach.check_tls, reach.check_health):
        finding = check()
        yield finding
        if finding.fine is False:
            return
    try:
        yield reach.check_ready()
        workers = reach.check_workers()
        if workers is not None:
            yield workers
        yield from _of_dialects(reach, wanted, idle)
    except (OSError, HTTPException) as error:
        yield Finding("broker", False, f"it does not answer any more: {error}", "look at its log")


def _of_dialects(reach: Reach, wanted: tuple[str, ...], idle: float) -> Iterator[Finding]:
    there = reach.dialects()
    for name, probe in PROBES.items():
        if name in wanted or (not wanted and (there is None or name in there)):
            yield probe(reach)
        elif there is not None and name not in there:
            yield Finding(name, None, "it does not have this dialect: TXBROKER_PROTOCOLS")
    if (there is None or "http" in there) and (not wanted or "http" in wanted):
        yield check_stream(reach)
    if idle and (there is None or "owlmeans" in there):
        yield check_idle(reach, idle)
