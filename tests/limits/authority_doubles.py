"""An authority behind a line on which answers take their time, or never come."""

from collections.abc import Callable, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred

from mcpguard.limits.authority import Returned, Unreachable
from mcpguard.limits.memory_authority import MemoryAuthority
from mcpguard.policy.buckets import Rate
from mcpguard.policy.leases import Ask, Lease


@define(eq=False)
class Question:
    """One that is under way."""

    key: str
    rate: Rate
    ask: Ask
    answer: Deferred[Lease]


@define(eq=False)
class Line:
    """Implements `Authority`: asks another when the test says so, or at once with ``quick``."""

    authority: MemoryAuthority
    quick: bool = True
    broken: bool = False
    asked: list[Ask] = field(factory=list)
    returned: list[Returned] = field(factory=list)
    under_way: list[Question] = field(factory=list)
    lost: list[Question] = field(factory=list)

    def lease(self, key: str, rate: Rate, ask: Ask) -> Deferred[Lease]:
        """Note the question."""
        question = Question(key, rate, ask, Deferred())
        self.asked.append(ask)
        self.under_way.append(question)
        if self.broken:
            self.lose()
        elif self.quick:
            self.answer()
        return question.answer

    def give_back(self, returned: Sequence[Returned]) -> None:
        """Pass them on at once."""
        self.returned += returned
        self.authority.give_back(returned)

    def answer(self, index: int = 0) -> None:
        """The authority decides one question, and its answer arrives."""
        question = self.under_way.pop(index)
        question.answer.callback(self.authority.decide(question.key, question.rate, question.ask))

    def decide(self, index: int = 0) -> Callable[[], None]:
        """The authority decides one question; its answer arrives when what is given is called."""
        question = self.under_way.pop(index)
        lease = self.authority.decide(question.key, question.rate, question.ask)
        return lambda: question.answer.callback(lease)

    def lose(self, index: int = 0) -> None:
        """One question has no answer; the authority may hear it later, by `hear_late`."""
        question = self.under_way.pop(index)
        self.lost.append(question)
        question.answer.errback(Unreachable("lost"))

    def hear_late(self, index: int = 0) -> None:
        """The authority decides a question whose asker has given it up."""
        question = self.lost.pop(index)
        self.authority.decide(question.key, question.rate, question.ask)
