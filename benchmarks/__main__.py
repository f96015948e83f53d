"""``python -m benchmarks``: measure, and show what came out."""

import argparse
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bench import ROOT, TOOLS
from benchmarks.catalog import EXTRAS, ROWS, chosen
from benchmarks.publish import publish
from benchmarks.report import summary
from benchmarks.run import Plan, Record, run_extras, run_rows
from benchmarks.versions import versions


def cpus(text: str) -> tuple[int, ...]:
    """Processors, as ``0`` or ``1,2,3``."""
    return tuple(int(one) for one in text.split(","))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--only", nargs="+", metavar="NAME", default=[], help="these rows")
    made.add_argument("--list", action="store_true", help="name the rows and end")
    made.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    made.add_argument("--rounds", type=int, help="how often each row is measured")
    made.add_argument("--seconds", type=float, help="of one measurement, whole ones")
    made.add_argument("--connections", type=int, nargs="+", metavar="N", help="at once")
    made.add_argument("--gateway-cpus", type=cpus, help="processor of the gateway")
    made.add_argument("--load-cpus", type=cpus, help="processors of load and upstream")
    made.add_argument("--json", type=Path, default=TOOLS / "results.json", help="where it goes")
    made.add_argument("--resume", action="store_true", help="go on with what --json has")
    made.add_argument("--again", action="store_true", help="what --only names, measured anew")
    made.add_argument("--show", action="store_true", help="measure nothing, show what --json has")
    made.add_argument(
        "--publish", action="store_true", help="write benchmarks/results and docs/performance.md"
    )
    return made


def begin(plan: Plan, layout: machine.Layout, quick: bool) -> dict[str, Any]:
    """What is noted before anything is measured."""
    return {
        "machine": machine.description(),
        "versions": versions(),
        "run": {
            "began": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "rounds": str(plan.rounds),
            "seconds of a measurement": f"{plan.seconds:g}",
            "extra runs": "short" if quick else "full",
            "processors of the gateway": machine.spelled(layout.gateway),
            "processors of load and upstream": machine.spelled(layout.load),
        },
    }


def main() -> None:
    """Measure, and print the table."""
    options = parser().parse_args()
    if options.list:
        for row in ROWS:
            print(f"{row.name:<22}{row.kind:<11}{row.what}")
        for extra in EXTRAS:
            print(f"{extra.name:<22}{'extra':<11}{extra.what}")
        return
    try:
        rows, extras = chosen(options.only)
    except KeyError as problem:
        sys.exit(f"no such rows: {problem}; --list names them")
    plan = Plan(
        rounds=options.rounds or (1 if options.quick else 3),
        seconds=options.seconds or (2.0 if options.quick else 3.0),
        connections=tuple(options.connections or ((16,) if options.quick else (1, 16, 64))),
    )
    everything = machine.Layout.of(machine.available_cpus())
    layout = machine.Layout(
        options.gateway_cpus or everything.gateway, options.load_cpus or everything.load
    )
    record = Record(options.json)
    if not ((options.resume or options.again or options.show) and record.load()):
        record.data = begin(plan, layout, options.quick)
    if options.resume:
        record.forget_left_out()
    if options.again:
        record.forget(options.only)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; --resume goes on"))
    if not options.show:
        if rows:
            run_rows(rows, plan, record, layout, say)
        run_extras(extras, options.quick, record, layout, say)
    print(summary(record.data))
    if options.publish:
        publish(record.data, ROOT, say)


if __name__ == "__main__":
    main()
