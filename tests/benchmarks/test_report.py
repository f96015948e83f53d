"""Tests of tables, targets and the page, out of recorded results."""

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import figures, report
from benchmarks import publish as publishing
from benchmarks.publish import BEGIN, END, with_results
from benchmarks.targets import GOALS, Goal
from tests.benchmarks.samples import results

ROOT = Path(__file__).resolve().parents[2]


def cells(table: str, name: str) -> list[str]:
    """The cells of one row of a Markdown table, by its first cell."""
    for line in table.splitlines():
        found = [cell.strip() for cell in line.strip("|").split("|")]
        if found[0] == name:
            return found[1:]
    raise KeyError(name)


class FigureTests(SynchronousTestCase):
    """Medians and ratios."""

    def setUp(self) -> None:
        """Take the sample."""
        self.rows: dict[str, Any] = results()["rows"]

    def test_median(self) -> None:
        """The median is over the rounds with that many connections, and None without any."""
        self.assertEqual(figures.median(self.rows["gateway-http"], 16, "rate"), 8_000)
        self.assertIsNone(figures.median(self.rows["gateway-http"], 1, "rate"))

    def test_silent_round(self) -> None:
        """A round without one answer does not make a row fast."""
        row = self.rows["fastmcp-http-shared"]
        row["runs"].append({**row["runs"][0], "requests": 0, "p99_ms": 0.0})
        self.assertEqual(figures.median(row, 16, "p99_ms"), 3.0)

    def test_ratio(self) -> None:
        """A ratio is of requests a second and core; None where one side is missing or too small."""
        rows = self.rows
        self.assertEqual(figures.ratio(rows, "gateway-http", "twisted-const", 16), 2.0)
        self.assertIsNone(figures.ratio(rows, "gateway-http", "nginx", 64))
        self.assertIsNone(figures.ratio(rows, "gateway-http", "absent", 16))
        rows["nginx"]["runs"][0]["per_core"] = 0.0
        self.assertIsNone(figures.ratio(rows, "gateway-http", "nginx", 16))


class ReportTests(SynchronousTestCase):
    """The tables."""

    def test_rates(self) -> None:
        """A row has its rates, its ratios and how many answers were wrong."""
        found = cells(report.rates(results()), "gateway-http")
        self.assertEqual(found[:2], ["http", "bearer"])
        self.assertIn("8 000", found)
        self.assertIn("10 000", found)
        self.assertIn("2.00", found)
        self.assertIn("0.250", found)
        self.assertEqual(found[-1], "7")

    def test_order(self) -> None:
        """References come first and peers last, whatever was measured when."""
        names = list(report.measured(results()))
        self.assertEqual(names[0], "twisted-const")
        self.assertEqual(names[-1], "fastmcp-http-shared")
        self.assertNotIn("supergateway", names)

    def test_latencies(self) -> None:
        """Latencies, and the memory of the largest process."""
        found = cells(report.latencies(results()), "gateway-http")
        self.assertEqual(found[0], "1.00 / 3.00")
        self.assertEqual(found[2:4], ["55", "60"])

    def test_summary(self) -> None:
        """Every section is there, and what was left out with its reason."""
        text = report.summary(results())
        for title, _ in report.extras(results()):
            self.assertIn(f"## {title}\n", text)
        self.assertIn("`supergateway` was left out: npm is missing", text)
        self.assertIn("Left out: redis-server is not installed", text)
        self.assertEqual(cells(text, "no audit"), ["90.0", "-10.0", "1.0"])
        self.assertEqual(cells(text, "every call traced"), ["-", "-", "-"])

    def test_partial(self) -> None:
        """Any part of a record can be shown, as a run that was stopped leaves it."""
        self.assertEqual(report.summary({}), "")
        for name in ("rows", "extras"):
            text = report.summary({name: results()[name]})
            self.assertEqual("## Rates" in text, name == "rows")
            self.assertEqual("## Memory over" in text, name == "extras")

    def test_aligned(self) -> None:
        """Every line of a table is as wide as the others."""
        for table in (report.rates(results()), report.goals(results())):
            self.assertEqual(len({len(line) for line in table.splitlines()}), 1)


class GoalTests(SynchronousTestCase):
    """The targets and what came of them."""

    def test_verdicts(self) -> None:
        """More is better, or fewer is, and nothing measured is no success."""
        more = Goal("a", 1.5, 2.0, lambda _: None)
        fewer = Goal("b", 70.0, 60.0, lambda _: None, fewer=True)
        for goal, value, verdict in (
            (more, 2.0, "aim reached"),
            (more, 1.5, "reached"),
            (more, 1.49, "missed"),
            (fewer, 60.0, "aim reached"),
            (fewer, 70.0, "reached"),
            (fewer, 70.1, "missed"),
            (fewer, None, "not measured"),
        ):
            self.assertEqual(goal.verdict(value), verdict, value)
        self.assertEqual(more.verdict(2.0, wrong=1), "wrong answers")

    def test_wrong_answers(self) -> None:
        """A gateway that answers wrongly has reached nothing, however fast it was."""
        text = report.goals(results())
        self.assertEqual(cells(text, "HTTP upstream, x bare Twisted")[-1], "wrong answers")
        self.assertEqual(cells(text, "HTTP: 2 workers, x one")[-1], "aim reached")

    def test_figures(self) -> None:
        """Each goal finds its figure in a record; the worst of several counts."""
        data = results()
        found = {goal.what: goal.figure(data) for goal in GOALS}
        self.assertEqual(len(found), len(GOALS))
        self.assertEqual(found["HTTP upstream, x bare Twisted"], 2.0)
        self.assertEqual(found["HTTP upstream, x nginx"], 0.25)
        self.assertEqual(found["HTTP: p99 at 16, x bare Twisted"], 1.5)
        self.assertEqual(found["HTTP: 2 workers, x one"], 1.6)
        self.assertEqual(found["x fastmcp over HTTP, shared session"], 50.0)
        self.assertEqual(found["RSS idle, MiB"], 59.0)
        self.assertEqual(found["idle proxied event streams for each GiB"], 50_000)
        self.assertIsNone(found["x supergateway over stdio"])
        self.assertIsNone(found["Redis round trips for each request at 1000/s"])

    def test_nothing(self) -> None:
        """Without results no goal is reached."""
        for goal in GOALS:
            self.assertIsNone(goal.figure({}), goal.what)


class PageTests(SynchronousTestCase):
    """The results in the page on performance."""

    def test_replaced(self) -> None:
        """What stands between the marks is replaced, again and again, and nothing else."""
        page = f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n"
        once = with_results(page, results(), ["rates"])
        self.assertEqual(with_results(once, results(), ["rates"]), once)
        self.assertTrue(once.startswith("before\n\n") and once.endswith("\n\nafter\n"))
        self.assertNotIn("old", once)
        self.assertIn("(images/performance-rates.svg)", once)
        self.assertIn("Abacus 3000", once)

    def test_published(self) -> None:
        """The record, the page beside it and the page in the documentation are written."""
        root = Path(self.mktemp()).absolute()
        (root / "docs").mkdir(parents=True)
        (root / "docs" / "performance.md").write_text(f"{BEGIN}\n{END}\n")
        drawn: list[Path] = []

        def draw(record: Path, directory: Path) -> list[str]:
            drawn.append(directory)
            return ["memory"]

        self.patch(publishing, "draw", draw)
        publishing.publish(results(), root, self.fail)
        self.assertEqual(drawn, [root / "docs" / "images"])
        folder = root / "benchmarks" / "results"
        self.assertEqual(
            json.loads((folder / "results.json").read_text()), json.loads(json.dumps(results()))
        )
        self.assertIn("## Targets", (folder / "results.md").read_text())
        self.assertIn("performance-memory.svg", (root / "docs" / "performance.md").read_text())

    def test_marks(self) -> None:
        """The page has the marks, once each."""
        page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
        self.assertEqual((page.count(BEGIN), page.count(END)), (1, 1))
