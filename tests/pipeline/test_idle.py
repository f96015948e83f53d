"""What a session costs that only waits: there may be a hundred thousand of them."""

import sys
from collections import deque

from twisted.trial.unittest import SynchronousTestCase

from mcpguard.pipeline.sessions import GET_STREAM
from tests.pipeline.rig import Rig


class Idle(SynchronousTestCase):
    """A session whose stream stands."""

    def test_no_room_for_what_may_come(self) -> None:
        """Nothing that may wait or be kept takes memory before there is something.

        An empty deque is 700 bytes, an empty set 200, a dict with room for attributes 100.
        """
        rig = Rig()
        session_id = rig.handshake()
        rig.send(b"", method="GET", headers={"Mcp-Session-Id": session_id})
        session = rig.pipeline.table._sessions[session_id]
        stream = session._streams[GET_STREAM]
        self.assertTrue(stream.attached)
        parts = (session, stream, session.log)
        self.assertEqual([type(one) for one in parts if hasattr(one, "__dict__")], [])
        held = [getattr(one, name, None) for one in parts for name in one.__slots__]
        self.assertEqual([one for one in held if isinstance(one, deque | set)], [])
        lists = [one for one in held if isinstance(one, list)]
        self.assertEqual(len(lists), 2)
        self.assertEqual({sys.getsizeof(one) for one in lists}, {sys.getsizeof([])})
