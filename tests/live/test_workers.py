"""Several workers behind one socket: connections spread, workers die, drain and are replaced."""

import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from tests.live.gateway_process import RunningGateway
from tests.live.processes import LiveCase, Program, free_port, marked
from tests.live.raw_client import Exchange, http_request
from tests.live.software import HERE, REPOSITORY
from tests.live.workers_case import (
    FAILURES,
    WORKERS,
    WorkersCase,
    is_refused,
    sockets_of,
    workers_of,
)

ANXIOUS = (sys.executable, str(HERE / "anxious.py"))
"""The gateway for a test of a worker that hangs."""


class ServingTests(WorkersCase):
    """All of them serve, as one."""

    async def test_as_one(self) -> None:
        """Connections are shared, and what one process counts once is counted once over all."""
        admin = free_port()
        identities = {
            "tester": {},
            "hasty": {"rate_limit": 0.01, "burst_size": 12},
            "busy": {"max_concurrency": 4},
        }
        gateway = await self.start_workers(3, admin={"port": admin}, identities=identities)
        await self.assert_spread(gateway)
        await self.assert_one_trail_and_one_page(gateway, admin)
        await self.assert_one_limit(gateway)
        await self.assert_one_count_of_places(gateway)

    async def assert_spread(self, gateway: RunningGateway) -> None:
        """Connections are shared between the workers: no burst after burst leaves one out."""
        workers = self.workers(gateway)
        before = {pid: sockets_of(pid) for pid in workers}
        clients = []

        def held() -> list[int]:
            return [sockets_of(pid) - before[pid] for pid in workers]

        for burst in range(1, 6):
            for _ in range(90):
                clients.append(socket.create_connection(("127.0.0.1", self.port(gateway))))
                self.addCleanup(clients[-1].close)
            await self.until(lambda all_of=90 * burst: sum(held()) == all_of, 10.0, "a burst")
            # Evenly where there is time to look; on a busy machine one may be slow to the door.
            if min(held()) > 0:
                break
        else:
            self.fail(f"one was left out: {held()}")
        for client in clients:
            client.close()
        await self.until(lambda: not any(held()), 10.0, "the end of the connections")

    async def assert_one_trail_and_one_page(self, gateway: RunningGateway, admin: int) -> None:
        """Each request has its outcome in the one trail, and is counted on everyone's page."""
        await self.assert_serves(gateway, 20)
        outcomes = await self.outcomes(gateway, "ToolCall", 20)
        self.assertEqual(len({one["request_id"] for one in outcomes}), 20)
        kinds = [one["event_type"] for one in gateway.events()]
        self.assertEqual((kinds.count("GatewayStarted"), kinds.count("WorkerEvent")), (1, 3))
        for _ in range(6):
            _, page = await self.page(admin, "/metrics")
            calls = re.findall(r'requests_total\{method="tools/call",status="200"\} (\S+)', page)
            self.assertEqual(calls, ["20.0"])
            up = re.findall(r'mcp_guard_worker_up\{worker="(\d)"\} (\S+)', page)
            self.assertEqual(up, [("1", "1.0"), ("2", "1.0"), ("3", "1.0")])
        self.assertEqual((await self.page(admin, "/ready"))[0], 200)

    async def assert_one_limit(self, gateway: RunningGateway) -> None:
        """A burst over all workers passes its caller's limit once, not once for each."""
        exchanges = await self.many(40, gateway, "s", "echo", who="hasty", text="x")
        await self.all_over(exchanges)
        statuses = [one.status for one in exchanges]
        self.assertEqual((statuses.count(200), statuses.count(429)), (12, 28))

    async def assert_one_count_of_places(self, gateway: RunningGateway) -> None:
        """An identity's requests at once are counted over all workers."""
        slow = await self.many(12, gateway, "s", "slow", who="busy", seconds=3)
        await self.all_over(slow)
        statuses = [one.status for one in slow]
        self.assertEqual((statuses.count(200), statuses.count(429)), (4, 8))
        await self.assert_serves(gateway, who="busy")


class DeathTests(WorkersCase):
    """Workers, and their parent, killed."""

    timeout = 360

    async def test_killed_under_load(self) -> None:
        """Only what was in progress there is lost, and another takes the place."""
        self.lossy = True
        identities = {"tester": {}, "single": {"max_concurrency": 1}}
        gateway = await self.start_workers(identities=identities)
        held = await self.held_place(gateway)
        await self.refused(gateway, 12)
        await self.assert_refusals(gateway.audit_file, 12)
        self.assertEqual(await self.shown(gateway, FAILURES), ["12.0"])
        load = self.load(gateway)
        await self.until(lambda: load.results["200"] > 50, 20.0, "calls")
        first = self.workers(gateway)
        os.kill(first[1], signal.SIGKILL)
        await self.said(gateway, r"worker \d is ready", WORKERS + 1)
        before = load.results["200"]
        await self.until(lambda: load.results["200"] > before + 50, 20.0, "calls after it")
        results = await load.stop()
        self.assertEqual(set(results) - {"lost"}, {"200"})
        self.assertLessEqual(results["lost"], 4)
        self.assertEqual(len(set(self.workers(gateway)) - set(first)), 1)
        await self.assert_one_death_known(gateway)
        await self.assert_places_are_free(gateway, held)

    async def assert_one_death_known(self, gateway: RunningGateway) -> None:
        """The sums do not go down, its end is shown and recorded, its refusals are in the trail."""
        await self.refused(gateway, 6)
        self.assertEqual(await self.shown(gateway, FAILURES), ["18.0"])
        up = r'mcp_guard_worker_up\{worker="\d"\} (\S+)'
        self.assertEqual(await self.shown(gateway, up), ["1.0", "1.0"])
        crashes = r'mcp_guard_worker_crashes_total\{worker="(\d)"\} 1.0'
        self.assertEqual(len(await self.shown(gateway, crashes)), 1)
        await self.assert_refusals(gateway.audit_file, 18)
        crashed = [one for one in gateway.events() if one.get("status") == "crashed"]
        self.assertEqual([one["event_type"] for one in crashed], ["WorkerEvent"])
        self.assertIn("signal 9", crashed[0]["details"]["how"])
        self.assertIn("ended: signal 9", gateway.program.err.decode())

    async def held_place(self, gateway: RunningGateway) -> Exchange:
        """Begin a call that takes the one place of ``single``."""
        held = await self.begin(gateway, "s", "slow", who="single", seconds=300)
        await self.told(gateway, "Authorized", 1)
        for _ in range(100):
            if (await self.call(gateway, "s", "echo", who="single", text="x")).status == 429:
                break
            await self.pause(0.1)
        else:
            self.fail("the held call has not taken the one place")
        return held

    async def assert_places_are_free(self, gateway: RunningGateway, held: Exchange) -> None:
        """What requests of killed workers held of an identity's places is free again."""
        for pid in self.workers(gateway):
            os.kill(pid, signal.SIGKILL)
        await held.over
        await self.said(gateway, r"worker \d is ready", 2 * WORKERS + 1)
        await self.assert_serves(gateway, who="single")

    async def test_worker_hangs(self) -> None:
        """One that does not answer is shown as not up, says where it hangs, if it can, and is
        replaced; the page of the others comes all the same.
        """
        self.lossy = True
        self.mcp_guard = ANXIOUS
        gateway = await self.start_workers()
        await self.refused(gateway, 10)
        await self.shown(gateway, FAILURES)
        hanging = self.workers(gateway)[0]
        os.kill(hanging, signal.SIGSTOP)
        # The kernel may give a connection to the one that hangs: another is tried then.
        data = http_request("GET", "/metrics", {}, b"")
        tries = [await self.connect(gateway, data, "GET") for _ in range(12)]
        await self.until(lambda: any(one.over.called for one in tries), 10.0, "a page")
        page = next(one for one in tries if one.over.called).answer.body.decode()
        up = re.findall(r'mcp_guard_worker_up\{worker="\d"\} (\S+)', page)
        self.assertEqual(sorted(up), ["0.0", "1.0"])
        self.assertEqual(re.findall(FAILURES, page), ["10.0"])
        await self.until(lambda: hanging not in self.workers(gateway), 80.0, "its end")
        await self.said(gateway, "does not answer, and is killed")
        await self.said(gateway, r"worker \d is ready", WORKERS + 1)
        await self.assert_serves(gateway)

    async def test_parent_killed(self) -> None:
        """Its workers and their servers end by themselves, after what they had to do, which they
        put into the trail themselves.
        """
        temporary = tempfile.mkdtemp(prefix="mg-")
        self.addCleanup(shutil.rmtree, temporary)
        self.environment = {"TMPDIR": temporary}
        gateway = await self.start_workers()
        (shared,) = Path(temporary).iterdir()
        descriptor = os.open(shared, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        with self.assertRaises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        call = await self.begin(gateway, "s", "slow", seconds=2)
        await self.told(gateway, "Authorized", 1)
        gateway.stopping = True
        gateway.program.signal("KILL")
        answered = await call.over
        self.assertEqual(answered.text, "slow")
        await self.until(lambda: not list(marked(gateway.mark)), 15.0, "the end of all")
        self.assertTrue(is_refused(self.port(gateway)))
        self.assertEqual(os.listdir(temporary), [])
        calls = [one for one in gateway.events() if one["event_type"] == "ToolCall"]
        self.assertEqual([one["status"] for one in calls], ["success"])

    async def _judge(self, gateway: RunningGateway) -> None:
        """A killed parent has neither a status nor a whole trail."""
        if gateway.program.status != -signal.SIGKILL:
            await super()._judge(gateway)


class StopTests(WorkersCase):
    """SIGINT and SIGTERM."""

    async def test_drain(self) -> None:
        """Running calls of every worker are finished, new connections are refused, then all end.

        Ctrl-C reaches every process of the group; the workers leave it to their parent.
        """
        gateway = await self.start_workers()
        calls = await self.many(9, gateway, "s", "slow", seconds=3)
        await self.told(gateway, "Authorized", 9)
        for pid in self.workers(gateway):
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                os.kill(pid, number)
        gateway.stopping = True
        gateway.program.signal("INT")
        await self.until(lambda: is_refused(self.port(gateway)), 2.0, "no more connections")
        self.assertTrue(workers_of(self.parent(gateway)))
        await self.all_over(calls)
        self.assertEqual([one.text for one in calls], ["slow"] * 9)
        await self.ends(gateway.program, 15.0)
        await self.account(gateway)
        self.assertEqual(gateway.events()[-1]["event_type"], "GatewayStopped")

    async def test_sent_to_all(self) -> None:
        """A supervisor may send it to the workers as well, before or after the parent's word."""
        gateway = await self.start_workers()
        call = await self.begin(gateway, "s", "slow", seconds=2)
        await self.told(gateway, "Authorized", 1)
        workers = self.workers(gateway)
        os.kill(workers[0], signal.SIGTERM)
        gateway.program.signal("TERM")
        gateway.stopping = True
        for wait in (0.2, 0.2):
            await self.pause(wait)
            for one in workers:
                if one in self.workers(gateway):
                    os.kill(one, signal.SIGTERM)
        answered = await call.over
        self.assertEqual(answered.text, "slow")
        await self.until(lambda: gateway.program.status is not None, 15.0, "the end")
        self.assertNotIn(b"Traceback", gateway.program.err)


class ReloadTests(WorkersCase):
    """SIGHUP."""

    async def test_reload(self) -> None:
        """What is wrong changes nothing; what is right replaces every worker and fails no call."""
        gateway = await self.start_workers()
        await self.assert_nothing_changes(gateway)
        first, other = gateway.audit_file, gateway.audit_file.with_name("other.log")
        await self.assert_all_is_new(gateway, other)
        await self.assert_drain_is_bounded(gateway)
        await self.assert_whole_in_two_files(gateway, first, other)

    async def assert_nothing_changes(self, gateway: RunningGateway) -> None:
        """Everything wrong is said, be it a key or a file that cannot be opened, and all stays."""
        first = self.workers(gateway)
        self.change(gateway, server={"drain_timeout_secs": -1, "prot": 1})
        gateway.program.signal("HUP")
        await self.said(gateway, "not reloaded: server.prot: unknown key")
        await self.said(gateway, "not reloaded: server.drain_timeout_secs")
        await self.assert_serves(gateway)
        reload = (await self.told(gateway, "GatewayReload", 1))[0]
        self.assertEqual((reload["status"], len(reload["details"]["problems"])), ("failed", 2))
        absent = gateway.audit_file.parent / "absent" / "audit.log"
        self.change(
            gateway,
            server={"drain_timeout_secs": None, "prot": None},
            audit={"file": str(absent)},
        )
        gateway.program.signal("HUP")
        await self.said(gateway, "not reloaded: audit.file")
        await self.refused(gateway, 5)
        self.assertEqual(self.workers(gateway), first)

    async def assert_all_is_new(self, gateway: RunningGateway, audit_file: Path) -> None:
        """New settings, new processes, another audit file, and not one call that failed.

        Another signal while workers are being replaced is followed afterwards. The address stays,
        and the log says so.
        """
        first = self.workers(gateway)
        load = self.load(gateway)
        running = await self.begin(gateway, "s", "slow", seconds=4)
        await self.until(lambda: load.results["200"] > 20, 20.0, "calls")
        self.change(
            gateway,
            audit={"file": str(audit_file), "log_arguments": ["text"]},
            server={"denial_status": 200, "workers": 3, "drain_timeout_secs": 1},
            admin={"port": free_port()},
        )
        gateway.program.signal("HUP")
        await self.said(gateway, ": reloading")
        for _ in range(2):
            gateway.program.signal("HUP")
        await self.said(gateway, ": reloaded", 2)
        await self.said(gateway, "server.workers changes with a restart only")
        await self.said(gateway, "admin changes with a restart only")
        before = load.results["200"]
        await self.until(lambda: load.results["200"] > before + 20, 20.0, "calls after it")
        results = await load.stop()
        self.assertEqual(set(results), {"200"}, results)
        self.assertEqual((await running.over).text, "slow")
        await self.until(lambda: len(self.workers(gateway)) == WORKERS, 20.0, "the old ones' end")
        self.assertEqual(set(self.workers(gateway)) & set(first), set())
        await self.assert_serves(gateway)

    async def assert_drain_is_bounded(self, gateway: RunningGateway) -> None:
        """Calls that never end are cut off when the time is over, in all workers at once."""
        calls = await self.many(6, gateway, "s", "hang")
        await self.refused(gateway, 4)
        self.assertEqual(await self.shown(gateway, FAILURES), ["9.0"], "of all their lives")
        begun = self.reactor.seconds()
        await self.stop(gateway)
        self.assertLess(self.reactor.seconds() - begun, 1 + 15)
        await self.all_over(calls)

    async def assert_whole_in_two_files(
        self, gateway: RunningGateway, first: Path, other: Path
    ) -> None:
        """The trail goes on in the other file; nothing is lost or written twice."""
        await self.assert_refusals(first, 5)
        await self.assert_refusals(other, 4)
        self.assertIn("GatewayStopped", other.read_text().splitlines()[-1])
        first.write_text(first.read_text() + other.read_text())
        await self.account(gateway)
        events = gateway.events()
        reloads = [one["status"] for one in events if one["event_type"] == "GatewayReload"]
        self.assertEqual(reloads, ["failed", "failed", "success", "success"])
        calls = [one["request_id"] for one in events if one["event_type"] == "ToolCall"]
        self.assertEqual(len(calls), len(set(calls)))


TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
LOGGER = "--logger=mcpguard.observe.logs.to_stdout"
CONFIGURATION = f"""
[server]
workers = 2
[upstream]
transport = "stdio"
command = {json.dumps(sys.executable)}
args = ["-m", "mcpguard.demo"]
[audit]
file = "audit.log"
"""


class ServiceTests(LiveCase):
    """``twistd mcp-guard`` with workers."""

    def configured(self) -> Path:
        """A directory with a configuration, which everybody may write to."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        folder.chmod(0o777)
        (folder / "mcp-guard.toml").write_text(CONFIGURATION)
        return folder

    def twistd(self, folder: Path, *options: str, port: int = 0) -> Program:
        """Start it there."""
        plugin = ["mcp-guard", "--config", "mcp-guard.toml", "--port", str(port)]
        environment = {"PYTHONPATH": str(REPOSITORY)}
        return self.start(
            [*TWISTD, *options, *plugin], env=environment, cwd=str(folder), name="twistd"
        )

    async def test_log_and_signals(self) -> None:
        """The workers' lines are records of the one log; audit file and configuration anew."""
        folder = self.configured()
        program = self.twistd(folder, "--nodaemon", "--pidfile=", LOGGER)
        await program.said("listening on http://127")
        audit, moved = folder / "audit.log", folder / "audit.log.1"
        # The file is there before its first line, which a moved file would not get any more.
        await self.until(
            lambda: audit.exists() and audit.stat().st_size > 0, 10, "a line in the audit file"
        )
        audit.rename(moved)
        program.process.signalProcess(signal.SIGUSR1)
        await self.until(audit.exists, 10, "a new audit file after SIGUSR1")
        program.signal("HUP")
        await program.said('"reloaded"')
        program.signal("TERM")
        self.assertEqual(await self.ends(program, 15), -15, program.story())
        records = [json.loads(line) for line in program.out.decode().splitlines()]
        self.assertEqual(program.err, b"", program.story())
        numbers = {r["data"]["worker"] for r in records if r["message"].startswith("worker ")}
        self.assertEqual(numbers, {1, 2})
        self.assertEqual([r for r in records if "traceback" in r], [])
        kinds = [json.loads(line)["event_type"] for line in moved.read_text().splitlines()]
        self.assertEqual(kinds[0], "GatewayStarted")
        kinds = [json.loads(line)["event_type"] for line in audit.read_text().splitlines()]
        self.assertEqual((kinds[-1], "GatewayReload" in kinds), ("GatewayStopped", True))

    async def test_in_the_background(self) -> None:
        """Twistd's daemon leaves its terminal; a reload finds the configuration all the same."""
        folder, port = self.configured(), free_port()
        starter = self.twistd(folder, "--pidfile=pid", "--logfile=log", port=port)
        self.assertEqual(await self.ends(starter, 15), 0, starter.story())
        log = folder / "log"
        pid = int((folder / "pid").read_text())
        self.addCleanup(kill_quietly, pid)
        await self.until(lambda: "listening on" in log.read_text(), 20, "the start")
        self.assertEqual(len(workers_of(pid)), 2)
        os.kill(pid, signal.SIGHUP)
        await self.until(lambda: "reloaded" in log.read_text(), 20, log.read_text())
        os.kill(pid, signal.SIGTERM)
        await self.until(lambda: not Path(f"/proc/{pid}").exists(), 20, "its end")
        self.assertTrue(is_refused(port))

    async def test_other_user(self) -> None:
        """With --uid the workers are that user's, and the socket was opened before."""
        if os.geteuid() != 0:
            self.skipTest("only root can become someone else")
        nobody = pwd.getpwnam("nobody")
        needed = (REPOSITORY, Path(sys.executable).resolve().parent, Path(sys.base_prefix))
        if not all(map(readable_by_others, needed)):
            self.skipTest("the repository or its Python is not there for other users")
        folder = self.configured()
        program = self.twistd(
            folder, "--nodaemon", "--pidfile=", f"--uid={nobody.pw_uid}", f"--gid={nobody.pw_gid}"
        )
        await program.said("listening on http://127")
        pid = program.process.pid
        assert isinstance(pid, int)
        workers = workers_of(pid)
        self.assertEqual(len(workers), 2)
        for one in (pid, *workers):
            self.assertEqual(Path(f"/proc/{one}").stat().st_uid, nobody.pw_uid)
        program.signal("TERM")
        await self.ends(program, 15)

    async def test_address_taken(self) -> None:
        """That is status 1 and one reason, before any worker is started."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            program = self.twistd(self.configured(), "--nodaemon", "--pidfile=", port=port)
            self.assertEqual(await self.ends(program, 15), 1)
            self.assertIn(f":{port}", program.story())
            self.assertNotIn("worker 1", program.story())


class ForegroundTests(LiveCase):
    """``mcp-guard run`` with workers."""

    async def test_cannot_start(self) -> None:
        """What only a worker finds out ends the command with status 1 and the reason."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        broken = CONFIGURATION + '[[audit.redaction_rules]]\nname = "x"\npattern = "("\n'
        (folder / "mcp-guard.toml").write_text(broken)
        status, _, err = await self.run_program(
            [sys.executable, "-m", "mcpguard", "-c", str(folder / "mcp-guard.toml"), "run"],
            env={"PYTHONPATH": str(REPOSITORY)},
            seconds=15,
        )
        self.assertEqual(status, 1, err)
        self.assertNotIn("Traceback", err)


def kill_quietly(pid: int) -> None:
    """Kill what may be gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def readable_by_others(path: Path) -> bool:
    """Whether every directory on the way is open to all."""
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (path, *path.parents))
