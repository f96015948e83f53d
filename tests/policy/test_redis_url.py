"""Tests of Redis's URLs."""

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mcpguard.policy.redis_url import RedisAddress, parse_redis_url


class UrlTests(SynchronousTestCase):
    """What a URL means, and which are none."""

    def test_parts(self) -> None:
        """Each part, with its default."""
        for text, address in (
            ("redis://cache", RedisAddress("cache", 6379, False, 0, None, None)),
            ("rediss://cache/", RedisAddress("cache", 6379, True, 0, None, None)),
            ("redis://10.0.0.5:7000/3", RedisAddress("10.0.0.5", 7000, False, 3, None, None)),
            ("redis://[::1]:7000", RedisAddress("::1", 7000, False, 0, None, None)),
            ("redis://:pa%40ss@cache", RedisAddress("cache", 6379, False, 0, None, "pa@ss")),
            ("rediss://me:p%2Fw@cache/15", RedisAddress("cache", 6379, True, 15, "me", "p/w")),
        ):
            self.assertEqual(parse_redis_url(text), address, text)

    def test_refused(self) -> None:
        """What cannot be meant so, with a reason that tells nothing of it."""
        for text in (
            *("", "cache", "cache:6379", "http://cache", "redis:/cache", "redis://", "redis://:1"),
            *("redis://cache:0", "redis://cache:65536", "redis://cache:x", "redis://cache/x"),
            *("redis://cache/99999", "redis://cache/1/2", "redis://cache/-1", "redis://cache/٣"),
            *("redis://hunter2@cache", "redis://hunter2:@cache", "redis://@cache"),
            *("redis://:hunter2#@cache", "redis://:hunter2?@cache", "redis://cache?db=1"),
            *("redis://:hunter2@ca che", "redis://:hunter2@[::1", "redis://a,b", "REDIS://cache"),
        ):
            with self.assertRaises(ValueError, msg=text) as caught:
                parse_redis_url(text)
            self.assertNotIn("hunter2", str(caught.exception))

    def test_password_is_not_shown(self) -> None:
        """Nor in a repr."""
        self.assertNotIn("hunter2", repr(parse_redis_url("redis://:hunter2@cache")))

    @settings(deadline=None, max_examples=200)
    @given(st.text(max_size=60) | st.text(max_size=60).map("redis://".__add__))
    def test_anything(self, text: str) -> None:
        """Every text is an address or a `ValueError`."""
        try:
            address = parse_redis_url(text)
        except ValueError:
            return
        self.assertTrue(address.host)
        self.assertTrue(0 < address.port <= 65_535)
