"""One child process: framing, queues, the ladder that ends it."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.errors import Reason
from mcpguard.policy.buckets import Rate
from mcpguard.protocol.jsonrpc import Bounds, Malformed
from mcpguard.upstream.chatter import Chatter
from mcpguard.upstream.child import Child, ChildBounds, Exit
from mcpguard.upstream.link import Message, UpstreamFailure
from tests.process_doubles import ProcessDouble, ProcessReactor

NOTE: Message = {"jsonrpc": "2.0", "method": "notifications/x"}

BOUNDS = ChildBounds(
    max_message=1000,
    max_unsent=100,
    stall_secs=30,
    grace_secs=2,
    json=Bounds(max_depth=50, max_nodes=500),
)


class Ear:
    """An owner that writes down what it hears."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.problems: list[Malformed] = []
        self.failures: list[UpstreamFailure] = []
        self.raising: Exception | None = None

    def message(self, message: Message) -> None:
        """Keep it, then fail if told to."""
        self.messages.append(message)
        if self.raising is not None:
            raise self.raising

    def unreadable(self, problem: Malformed) -> None:
        """Keep it."""
        self.problems.append(problem)

    def over(self, failure: UpstreamFailure) -> None:
        """Keep it."""
        self.failures.append(failure)


class ChildCase(SynchronousTestCase):
    """A child double with its protocol."""

    pipes_first = False

    def setUp(self) -> None:
        """One running child."""
        self.reactor = ProcessReactor()
        self.reactor.pipes_first = self.pipes_first
        self.ear = Ear()
        self.said: list[tuple[str, str]] = []
        self.child = Child(
            "files", self.reactor, BOUNDS, self.chatter, self.reactor.signal_group, self.ear
        )
        self.reactor.spawnProcess(self.child, "server", ["server"], env={})
        self.process = self.reactor.children[0]

    def chatter(self, stream: str) -> Chatter:
        """A way to ``self.said``, three lines at once and one a second."""
        return Chatter(
            emit=lambda line: self.said.append((stream, line)),
            clean=lambda line: line.replace("hunter2", "***"),
            max_line=10,
            rate=Rate(1, 3),
            margin=1024,
        )

    def fired(self, deferred: Deferred[Exit]) -> Exit:
        """The exit it fired with."""
        return self.successResultOf(deferred)


class HearingTests(ChildCase):
    """What the child writes."""

    def test_messages_in_any_chunks(self) -> None:
        """Messages arrive whole, wherever the pipe cut them; blank lines are nothing."""
        self.process.says(
            b'{"jsonrpc":"2.0","met', b'hod":"a"}\r\n\n \n{"jsonrpc":"2.0","id":1}\n{'
        )
        self.assertEqual(
            self.ear.messages, [{"jsonrpc": "2.0", "method": "a"}, {"jsonrpc": "2.0", "id": 1}]
        )
        self.assertEqual(self.ear.problems, [])

    def test_banner_is_logged_and_dropped(self) -> None:
        """Text that is no JSON goes to the log, cut, and the next message is understood."""
        self.process.says(b"Server listening on stdio\n", NOTE)
        self.assertEqual(self.said, [("stdout", "Server lis…")])
        self.assertEqual(self.ear.messages, [NOTE])
        self.assertEqual(len(self.ear.problems), 1)

    def test_flood_of_banners_is_rated(self) -> None:
        """The log gets no more than its rate, and is told how much it missed."""
        self.process.says(b"noise\n" * 1000)
        self.assertEqual(self.said, [("stdout", "noise")] * 3)
        self.reactor.advance(1)
        self.process.says(b"more\n")
        self.assertEqual(self.said[3:], [("stdout", "(997 lines dropped)"), ("stdout", "more")])

    def test_bad_json_dialects_are_dropped(self) -> None:
        """NaN, bad UTF-8, duplicate members and arrays are no messages."""
        for line in (
            b'{"jsonrpc":"2.0","id":1,"result":NaN}',
            b'{"jsonrpc":"2.0","id":1,"result":"\xff"}',
            b'{"jsonrpc":"2.0","id":1,"id":2,"result":{}}',
            b'[{"jsonrpc":"2.0","id":1,"result":{}}]',
        ):
            self.process.says(line + b"\n")
        self.assertEqual(self.ear.messages, [])
        self.assertEqual(len(self.ear.problems), 4)

    def test_readable_id_of_a_bad_answer(self) -> None:
        """An answer too deep to accept still tells whose it was."""
        deep = b"[" * 60 + b"]" * 60
        self.process.says(b'{"jsonrpc":"2.0","id":7,"result":{"a":' + deep + b"}}\n")
        self.assertEqual([problem.id for problem in self.ear.problems], [7])

    def test_endless_line_kills_the_child(self) -> None:
        """A line above the bound cannot be framed: the child dies and the owner learns why."""
        for _ in range(11):
            self.process.says(b"x" * 100)
        self.assertEqual(self.process.asked, ["KILL"])
        (failure,) = self.ear.failures
        self.assertEqual(failure.reason, Reason.ANSWER_TOO_LARGE)
        self.assertFalse(self.child.alive)

    def test_owner_errors_do_not_end_the_pipe(self) -> None:
        """An exception in the owner is logged; the next message is heard."""
        self.ear.raising = ValueError("mine")
        self.process.says(NOTE, NOTE)
        self.assertEqual(self.ear.messages, [NOTE, NOTE])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_stderr_is_cleaned_and_cut(self) -> None:
        """Stderr goes to the log by lines, without secrets, never breaking a line."""
        self.child.childDataReceived(2, b"pw hunter2\nlong long long long\n\x1b[31mred")
        self.process.exits(0)
        self.assertEqual(
            self.said,
            [("stderr", "pw ***"), ("stderr", "long long …"), ("stderr", "\\x1b[31mred")],
        )
        self.assertEqual(self.ear.messages, [])

    def test_stderr_without_a_newline_is_bounded(self) -> None:
        """A child that never ends its line costs a bounded buffer."""
        for _ in range(1000):
            self.child.childDataReceived(2, b"y" * 1000)
        self.assertLess(len(self.child._stderr._part), 2000)
        self.child.childDataReceived(2, b"\n")
        self.assertEqual(self.said, [("stderr", "y" * 10 + "…")])


class SayingTests(ChildCase):
    """What is written to the child."""

    def test_lines_are_written(self) -> None:
        """A message is one line."""
        self.assertTrue(self.child.send(b'{"a":1}'))
        self.assertEqual(self.process.written, b'{"a":1}\n')

    def test_queue_is_bounded(self) -> None:
        """A child that does not read costs the bound and no more; later it gets what waited."""
        self.child.pauseProducing()
        self.assertEqual([self.child.send(b"x" * 40) for _ in range(4)], [True, True, False, False])
        self.assertEqual(self.process.written, b"")
        self.child.resumeProducing()
        self.assertEqual(self.process.written, (b"x" * 40 + b"\n") * 2)
        self.assertTrue(self.child.send(b"x" * 40))

    def test_pause_during_catching_up(self) -> None:
        """The pipe may fill again while the queue is written."""
        self.child.pauseProducing()
        for word in (b"a", b"b", b"c"):
            self.child.send(word)
        write = self.process.write

        def full_after_one(data: bytes) -> None:
            write(data)
            self.child.pauseProducing()

        self.process.write = full_after_one  # type: ignore[method-assign]
        self.child.resumeProducing()
        self.assertEqual(self.process.written, b"a\n")
        self.child.resumeProducing()
        self.assertEqual(self.process.written, b"a\nb\n")

    def test_child_that_never_reads_is_killed(self) -> None:
        """After the stall time it is of no use to anybody."""
        self.child.pauseProducing()
        self.reactor.advance(29)
        self.assertEqual(self.process.asked, [])
        self.reactor.advance(1)
        self.assertEqual(self.process.asked, ["KILL"])
        self.assertEqual(self.ear.failures[0].reason, Reason.UPSTREAM_FAILED)

    def test_child_that_reads_again_lives(self) -> None:
        """Reading in time ends the stall."""
        self.child.pauseProducing()
        self.reactor.advance(29)
        self.child.resumeProducing()
        self.reactor.advance(100)
        self.assertEqual(self.process.asked, [])

    def test_nothing_is_sent_after_the_end(self) -> None:
        """A dead child takes no messages."""
        self.process.exits(1)
        self.assertFalse(self.child.send(b"x"))


class EndTests(ChildCase):
    """How a child ends, by itself or by us."""

    def stop(self, *obeys: str) -> Deferred[Exit]:
        """Stop a child that obeys only these."""
        self.process.obeys = set(obeys)
        return self.child.stop()

    def test_polite_child(self) -> None:
        """End of input is enough; nothing else is done to it."""
        ended = self.stop("EOF")
        self.assertEqual(self.process.asked, ["EOF"])
        self.assertEqual(self.fired(ended), Exit(0, None, wanted=True))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stubborn_child(self) -> None:
        """A child deaf to the end of input and to TERM is killed after two grace periods."""
        ended = self.stop("KILL")
        self.reactor.pump([1.9, 0.2])
        self.assertEqual(self.process.asked, ["EOF", "TERM"])
        self.assertNoResult(ended)
        self.reactor.advance(2)
        self.assertEqual(self.process.asked, ["EOF", "TERM", "KILL"])
        self.assertEqual(self.fired(ended).signal, 9)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_stop_again(self) -> None:
        """Whoever asks again waits for the same end; the ladder is climbed once."""
        first, second = self.stop("TERM"), self.child.stop()
        self.reactor.advance(2)
        self.assertEqual(self.process.asked, ["EOF", "TERM"])
        self.fired(first)
        self.fired(second)
        self.fired(self.child.stop())

    def test_stop_before_the_group_exists(self) -> None:
        """In its first milliseconds the child has no group yet; it is signalled alone."""
        self.process.group = -1
        self.stop("TERM (alone)")
        self.reactor.advance(2)
        self.assertEqual(self.process.asked, ["EOF", "TERM (alone)"])

    def test_crash(self) -> None:
        """An exit nobody asked for tells the owner at once, once, and is not wanted."""
        ended = self.child.ended()
        self.process.exits(3)
        self.assertEqual(self.fired(ended), Exit(3, None, wanted=False))
        self.assertEqual([one.reason for one in self.ear.failures], [Reason.UPSTREAM_FAILED])

    def test_last_words(self) -> None:
        """What is in the pipe at the exit is still heard."""
        self.process.exits(0, holding=True)
        self.process.says(NOTE)
        self.assertEqual(self.ear.messages, [NOTE])
        self.assertEqual(self.ear.failures, [])
        self.process.closes(1)
        self.assertEqual(len(self.ear.failures), 1)

    def test_grandchild_holding_the_pipes(self) -> None:
        """A descendant with our pipes is told to end with its parent, and killed after a grace."""
        self.process.members = 2
        self.process.obeys = {"KILL"}
        ended = self.child.ended()
        self.process.exits(0, holding=True)
        self.assertEqual(self.process.asked, ["TERM"])
        self.reactor.pump_all(1.9)
        self.assertNoResult(ended)
        self.reactor.pump_all(0.2)
        self.assertEqual(self.process.asked, ["TERM", "KILL"])
        self.assertEqual(self.process.pipes, {})
        self.fired(ended)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_escaped_grandchild(self) -> None:
        """A descendant that left the group cannot keep our pipes open for ever."""
        ended = self.child.ended()
        self.process.exits(0, holding=True)
        self.reactor.pump_all(1.9)
        self.assertNoResult(ended)
        self.reactor.pump_all(0.2)
        self.fired(ended)
        self.assertEqual(self.process.pipes, {})

    def test_unkillable_group(self) -> None:
        """Processes that survive KILL are given up after another grace, not waited for."""
        self.process.members = 2
        self.process.obeys = set()
        ended = self.child.ended()
        self.process.exits(0)
        self.reactor.pump_all(4.2)
        self.fired(ended)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_output_closed(self) -> None:
        """A child that closes its output is of no use and is ended."""
        self.process.obeys = {"TERM"}
        self.process.closes(1)
        self.assertEqual(len(self.ear.failures), 1)
        self.reactor.advance(2)
        self.assertEqual(self.process.asked, ["EOF", "TERM"])

    def test_input_closed(self) -> None:
        """A child that closes its input may finish its answers, for a grace period."""
        self.process.obeys = {"TERM"}
        self.process.closes(0)
        self.assertFalse(self.child.alive)
        self.assertFalse(self.child.send(b"x"))
        self.process.says(NOTE)
        self.assertEqual(self.ear.messages, [NOTE])
        self.reactor.advance(2)
        self.assertEqual(len(self.ear.failures), 1)
        self.reactor.advance(2)
        self.assertEqual(self.process.asked[-1], "TERM")

    def test_stop_after_the_input_closed(self) -> None:
        """The ladder starts at once, whatever the child closed before."""
        self.process.obeys = {"TERM"}
        self.process.closes(0)
        ended = self.child.stop()
        self.reactor.advance(2)
        self.fired(ended)

    def test_unsent_is_dropped_at_the_end(self) -> None:
        """The queue is emptied, so that closing stdin cannot wait for it."""
        self.child.pauseProducing()
        self.child.send(b"x" * 50)
        self.fired(self.stop("EOF"))
        self.assertEqual(self.process.written, b"")
        self.assertIsNone(self.process.producer)


class DoubleTests(SynchronousTestCase):
    """The double itself."""

    def test_server_answers(self) -> None:
        """A server in the double hears each line and answers a moment later."""
        reactor = ProcessReactor()
        reactor.server_for = lambda number: lambda message: [{"id": message["id"], "n": number}]
        ear = Ear()
        heard: list[Any] = []

        class Quiet(Child):
            def outReceived(self, data: bytes) -> None:
                heard.append(data)

        child = Quiet(
            "x",
            reactor,
            BOUNDS,
            lambda stream: Chatter(lambda line: None, str, 10, Rate(1, 1), margin=10),
            reactor.signal_group,
            ear,
        )
        process: ProcessDouble = reactor.spawnProcess(child, "x", ["x"], env={})
        child.send(b'{"id": 4}')
        reactor.advance(0)
        self.assertEqual(heard, [b'{"id": 4, "n": 0}\n'])
        self.assertEqual(process.messages, [{"id": 4}])


class PipesFirstEndTests(EndTests):
    """The same, when the ends of a child's pipes are seen before its exit."""

    pipes_first = True
