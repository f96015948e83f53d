"""Routes that are made when the first request is for them."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from mcpguard.front.pages import LateRoutes


class Made(Resource):
    """The routes that are made."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.rendered: list[object] = []

    def render(self, request: Any) -> int:
        """Note the request."""
        self.rendered.append(request)
        return NOT_DONE_YET


class Late(SynchronousTestCase):
    """`LateRoutes`."""

    def test_made_once(self) -> None:
        """Nothing is made before the first request, and nothing again for the next."""
        made: list[Made] = []

        def make() -> IResource:
            made.append(Made())
            return made[-1]

        late = LateRoutes(make)
        verifyObject(IResource, late)
        self.assertTrue(late.isLeaf)
        self.assertEqual(made, [])
        results = [late.render(request) for request in ("one", "two")]
        self.assertEqual(results, [NOT_DONE_YET, NOT_DONE_YET])
        self.assertEqual([one.rendered for one in made], [["one", "two"]])

    def test_cannot_be_made(self) -> None:
        """An error is that of one request; the next one tries again."""
        routes = Made()
        outcomes: list[Made | OSError] = [routes, OSError("no such file")]

        def make() -> IResource:
            outcome = outcomes.pop()
            if isinstance(outcome, OSError):
                raise outcome
            return outcome

        late = LateRoutes(make)
        self.assertRaises(OSError, late.render, "one")
        late.render("two")
        self.assertEqual(routes.rendered, ["two"])
