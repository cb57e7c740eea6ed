"""Generators measure what they claim to: intended starts, sound histories, calls that arrive."""

import asyncio
import sys
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest

from bench import results
from bench.load import etcd_messages as etcd
from bench.load.clients import EtcdClient
from bench.load.drive import Driver, arrival_times
from bench.load.fleet import Fleet, LoadError
from bench.load.generator import GeneratorSpec
from bench.load.instant import InstantUnary
from bench.load.measure import Measured, Notes, Window, merge
from bench.load.record import Recorded, Recorder, Recording, to_history
from bench.load.unary import CallFailed, CallLost, UnaryConnection, literal
from bench.operations import Stream
from bench.suite import Load
from bench.workload import parse_workload
from replica.kv.operations import Got, KeyValue, Put, Range, Ranged, Transacted, Transaction, Written
from replica.verification.checker import check
from replica.verification.verdict import Verdict

WINDOW = Window(start=100.0, measured_from=101.0, measured_to=103.0, end=104.0)


def test_only_the_measured_part_counts_and_the_series_shows_everything():
    notes = Notes(WINDOW, 1.0, open_loop=False)
    for ended in (100.5, 101.5, 102.5, 102.75, 103.5):
        notes.note(0, ended - 0.010, ended)
    notes.failure(102.0, ValueError("x"), unknown=True)
    measured = notes.finish()
    assert measured.completed == [1, 1, 2, 1]
    assert measured.unknown == [0, 0, 1, 0]
    assert (measured.operations, measured.uncertain, measured.total) == (3, 1, 5)
    assert measured.gap_s == pytest.approx(1.0)
    assert measured.errors == {"ValueError": 1}


def test_an_open_loop_counts_from_the_intended_start():
    notes = Notes(WINDOW, 1.0, open_loop=True)
    notes.note_open(0, 101.0, 101.5, 101.6)
    measured = notes.finish()
    intended = results.decode_histogram(measured.histograms["read"]["intended"])
    sent = results.decode_histogram(measured.histograms["read"]["sent"])
    assert results.percentile_ms(intended, 50) == pytest.approx(600, rel=0.01)
    assert results.percentile_ms(sent, 50) == pytest.approx(100, rel=0.01)
    assert measured.late_ms == pytest.approx(500, rel=0.01)


def test_generators_add_up_by_region():
    def part(latency_s: float) -> Measured:
        notes = Notes(WINDOW, 1.0, open_loop=False)
        notes.note(0, 102.0 - latency_s, 102.0)
        return notes.finish()

    summary, series, latencies = merge([("va", part(0.001)), ("oh", part(0.003))], WINDOW, open_loop=False)
    assert summary.operations == 2
    assert summary.throughput == 1.0
    assert series.regions == {"va": [0, 0, 1, 0], "oh": [0, 0, 1, 0]}
    assert series.region_mean_ms["va"] == [None, None, pytest.approx(1.0, rel=0.01), None]
    assert series.mean_ms("oh", 0.0, 4.0) == pytest.approx(3.0, rel=0.01)
    assert series.mean_ms("oh", 0.0, 2.0) is None
    assert series.mean_ms("nowhere", 0.0, 4.0) is None
    assert [(each.region, each.kind, each.origin) for each in latencies] == [
        ("oh", "read", "sent"),
        ("va", "read", "sent"),
    ]
    assert summary.max_ms == pytest.approx(3.0, rel=0.01)


def test_arrivals_are_the_same_for_the_same_seed_and_have_the_rate_that_was_asked_for():
    one = list(islice(arrival_times(1000.0, "poisson", seed=4, start=10.0), 5000))
    assert one == list(islice(arrival_times(1000.0, "poisson", seed=4, start=10.0), 5000))
    assert one != list(islice(arrival_times(1000.0, "poisson", seed=5, start=10.0), 5000))
    assert one[-1] - 10.0 == pytest.approx(5.0, rel=0.1)
    even = list(islice(arrival_times(1000.0, "constant", seed=4, start=10.0), 3000))
    assert even[2999] == pytest.approx(13.0)


class SlowClient:
    """Stalls once, as a system under test may."""

    def __init__(self) -> None:
        self.asked = 0

    def issue(self, operation: Any) -> asyncio.Future[Any]:
        self.asked += 1
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_later(0.3 if self.asked == 1 else 0.0, future.set_result, b"")
        return future

    def outcome(self, error: Exception) -> str:
        return "unknown"


async def test_an_open_loop_goes_on_sending_while_the_system_stalls():
    loop = asyncio.get_running_loop()
    start = loop.time() + 0.05
    window = Window(start=start, measured_from=start, measured_to=start + 0.5, end=start + 0.5)
    stream = Stream(parse_workload({}), seed=1)
    notes = Notes(window, 0.1, open_loop=True)
    client: Any = SlowClient()
    driver = Driver(client, stream, notes, Recorder(stream, 0), window)
    await driver.open(200.0, "constant", seed=1, in_flight_max=1000)
    measured = notes.finish()
    assert client.asked == measured.offered == measured.total


@pytest.mark.parametrize(("regions", "expected"), [(None, range(50)), ((0, 3), [*range(10), *range(30, 40)]), ((), [])])
async def test_a_client_loads_the_keys_of_the_regions_it_was_given(regions, expected):
    loaded = []

    async def issue(operation: Any) -> bytes:
        loaded.append(int(operation.key))
        return b""

    window = Window(start=0.0, measured_from=0.0, measured_to=1.0, end=1.0)
    stream = Stream(parse_workload({"keys": 50, "locality": {"deviation": 0.1}}), seed=1, regions=5)
    client: Any = SimpleNamespace(issue=issue)
    driver = Driver(client, stream, Notes(window, 0.1, open_loop=True), Recorder(stream, 0), window)
    await driver.load(regions)
    assert sorted(loaded) == list(expected)


# ---------------------------------------------------------------------------------------------------------- histories


def put(value: str, invoked: float, completed: float | None, revision: int) -> Recorded:
    outcome = "unknown" if completed is None else "ok"
    result = {} if completed is None else {"revision": revision}
    return Recorded(
        operation="put",
        key="k",
        arguments={"value": value},
        invoked=invoked,
        completed=completed,
        outcome=outcome,
        result=result,
    )


def get(value: str, invoked: float, completed: float, revision: int) -> Recorded:
    item = {"value": value, "mod": revision}
    return Recorded(
        operation="get",
        key="k",
        invoked=invoked,
        completed=completed,
        outcome="ok",
        result={"revision": revision, "item": item},
    )


def verdict(*recordings: Recording) -> Verdict:
    named = [(f"client {number}", each) for number, each in enumerate(recordings)]
    return check(to_history(named, start=100.0, stale=False, attributes={})).verdict


def test_a_recorded_history_is_judged():
    assert verdict(Recording(operations=[put("a", 101, 102, 1), get("a", 103, 104, 1)])) is Verdict.OK
    stale = [put("a", 101, 102, 1), put("b", 103, 104, 2), get("a", 105, 106, 1)]
    assert verdict(Recording(operations=stale)) is Verdict.VIOLATION


def test_a_recording_that_ended_early_ends_the_history_for_all_and_stays_sound():
    # The second client reads what the first wrote when its recording was full: without the cut, from nowhere.
    first = Recording(operations=[put("a", 101, 102, 1)], until=103.0)
    second = Recording(operations=[get("a", 101.5, 102.5, 1), get("b", 102.9, 105, 2), get("b", 104, 105, 2)])
    history = to_history([("1", first), ("2", second)], start=100.0, stale=False, attributes={})
    assert len(history.operations) == 3
    assert check(history).verdict is Verdict.OK


def test_a_recorder_is_bounded_and_says_when_it_was_full():
    recorder = Recorder(Stream(parse_workload({}), seed=1), 2)
    assert [recorder.admit(time) for time in (1.0, 2.0, 3.0, 4.0)] == [True, True, False, False]
    assert recorder.until == 3.0


def test_a_scan_is_recorded_as_far_as_its_group_and_its_answer_go():
    stream = Stream(parse_workload({"keys": 64, "group": 8, "mix": {"scan": 1.0}}), seed=1, prefix=b"p/")
    recorder = Recorder(stream, 10)
    items = tuple(KeyValue(stream.key(number), b"v", 1, 1, 1) for number in (5, 6, 7, 8, 9))
    scan = Range(stream.key(5), stream.end, 5)
    recorder.add(scan, 1.0, 2.0, outcome="ok", answer=Ranged(3, items, 5, True), intended=None)
    cut = Range(stream.key(1), stream.end, 2)
    recorder.add(cut, 1.0, 2.0, outcome="ok", answer=Ranged(3, items[:2], 2, True), intended=None)
    whole, part = recorder.finish(lambda _, answer: answer).operations
    assert whole.arguments == {"first": "p/0000000005", "last": "p/0000000008"}
    assert [item["key"] for item in whole.result["items"]] == ["p/0000000005", "p/0000000006", "p/0000000007"]
    assert part.arguments["last"] == "p/0000000006\x00"


def test_long_values_are_recorded_by_their_fingerprint():
    recorder = Recorder(Stream(parse_workload({}), seed=1), 10)
    recorder.add(Put(b"k", b"x" * 5000), 1.0, 2.0, outcome="ok", answer=Written(1), intended=None)
    (found,) = recorder.finish(lambda _, answer: answer).operations
    assert found.arguments["value"].startswith("#")
    assert len(found.arguments["value"]) < 64


# --------------------------------------------------------------------------------------------------------- unary calls


async def server_of(make: Any) -> tuple[asyncio.Server, str]:
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_many_calls_share_a_connection_and_each_gets_its_answer():
    server, address = await server_of(InstantUnary)
    async with server:
        connection = UnaryConnection(asyncio.get_running_loop(), address)
        await connection.connect()
        answers = await asyncio.gather(*(connection.call(etcd.PUT, b"x" * 200) for _ in range(2000)))
        assert {etcd.PutResponse.FromString(answer).header.revision for answer in answers} == {1}
        # More than the windows that a connection begins with.
        big = await connection.call(etcd.PUT, b"y" * 100_000)
        assert etcd.PutResponse.FromString(big).header.revision == 1
        connection.close()


async def test_a_status_other_than_ok_is_an_error_with_its_message():
    class Refusing(InstantUnary):
        def __init__(self) -> None:
            super().__init__()
            block = literal(b"grpc-status", b"8") + literal(b"grpc-message", b"too many requests")
            head = self._pieces[2]
            flags = head[4:5]
            self._pieces = (*self._pieces[:2], len(block).to_bytes(3, "big") + head[3:4] + flags + b"\0\0\0\0" + block)

    server, address = await server_of(Refusing)
    async with server:
        client = EtcdClient(address, consistency="linearizable", timeout_s=5.0, in_flight=1)
        await client.open()
        with pytest.raises(CallFailed, match="status 8: too many requests") as caught:
            await client.issue(Put(b"k", b"v"))
        assert client.outcome(caught.value) == "fail"
        await client.close()


async def test_a_connection_that_ends_leaves_the_outcome_open():
    class Leaving(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            if len(data) > 100:
                self.transport.abort()

    server, address = await server_of(Leaving)
    async with server:
        client = EtcdClient(address, consistency="linearizable", timeout_s=5.0, in_flight=1)
        await client.open()
        with pytest.raises(CallLost) as caught:
            await client.issue(Put(b"k", b"v" * 200))
        assert client.outcome(caught.value) == "unknown"
        await client.close()


async def test_a_call_without_an_answer_is_given_up_at_its_deadline():
    class Silent(asyncio.Protocol):
        pass

    server, address = await server_of(Silent)
    async with server:
        client = EtcdClient(address, consistency="linearizable", timeout_s=0.1, in_flight=1)
        await client.open()
        with pytest.raises(CallLost, match="deadline"):
            await client.issue(Put(b"k", b"v"))
        await client.close()


def test_answers_of_etcd_become_results_of_the_store():
    client = EtcdClient("127.0.0.1:1", consistency="linearizable", timeout_s=1.0, in_flight=1)
    item = {"key": b"k", "value": b"v", "create_revision": 3, "mod_revision": 5, "version": 2}
    ranged = etcd.RangeResponse(header={"revision": 9}, kvs=[item], count=1)
    got = client.result(Range(b"k", b"l"), ranged.SerializeToString())
    assert got == Ranged(9, (KeyValue(b"k", b"v", 3, 5, 2),), 1, False)
    reply = etcd.TxnResponse(
        header={"revision": 10},
        succeeded=True,
        responses=[{"response_range": {"header": {"revision": 9}}}, {"response_put": {}}],
    )
    from replica.kv.operations import Get

    transaction = Transaction((), (Get(b"a"), Put(b"b", b"v")), ())
    found = client.result(transaction, reply.SerializeToString())
    assert found == Transacted(10, True, (Got(9, None), Written(10)))


def test_revisions_that_do_not_count_in_one_order_are_left_out_of_the_history():
    # Two keys, each with revisions of its own: in one order over all keys the second would be impossible.
    item = {"key": "b", "value": "y", "create": 1, "mod": 1, "version": 1}
    nested = {"succeeded": True, "results": [{"revision": 1, "item": item}], "revision": 1}
    read = Recorded(
        operation="transaction",
        arguments={"then": [{"operation": "get", "key": "b"}]},
        invoked=105.0,
        completed=106.0,
        outcome="ok",
        result=nested,
    )
    other = Recorded(
        operation="put",
        key="b",
        arguments={"value": "y"},
        invoked=103,
        completed=104,
        outcome="ok",
        result={"revision": 1},
    )
    recording = Recording(operations=[put("a", 101, 102, 1), other, read])
    named = [("client", recording)]
    assert check(to_history(named, start=100.0, stale=False, attributes={})).verdict is Verdict.VIOLATION
    apart = to_history(named, start=100.0, stale=False, revisions=False, attributes={})
    assert check(apart).verdict is Verdict.OK
    assert apart.operations[-1].result == {"succeeded": True, "results": [{"item": {"key": "b", "value": "y"}}]}


A_GENERATOR = """
import sys
import msgspec
from bench.load.generator import GeneratorResult, Progress, _say
from bench.load.measure import Notes, Window
from bench.load.record import Recorder
from bench.operations import Stream
from bench.workload import parse_workload

stream = Stream(parse_workload({"name": "writes", "writes": 1.0}), seed=1, client=0, clients=1)
nothing = Recorder(stream, 0).finish(lambda *_: None)
sys.stdin.readline()
_say(Progress(state="ready"))
sys.stdin.readline()
measured = Notes(Window(start=0.0, measured_from=0.0, measured_to=1.0, end=1.0), 1.0, open_loop=False).finish()
measured.errors = {sys.argv[1]: 3}
result = GeneratorResult(
    measured=measured, recording=nothing, loaded=nothing, cpu_user_s=1.0, cpu_system_s=0.0, memory_bytes=1 << 20
)
packed = msgspec.msgpack.encode(result)
_say(Progress(state="done", size_bytes=len(packed)), packed)
"""


def a_spec(region: str) -> GeneratorSpec:
    return GeneratorSpec(
        rpc="session", url="nowhere:1", workload=parse_workload({"name": "writes", "writes": 1.0}), region=region,
        load=Load(seconds=0.01, warm_up_s=0.0, cool_down_s=0.0), seed=1, client=0, clients=1, in_flight=1, rate=0.0,
    )  # fmt: skip


async def test_generators_are_started_where_they_are_told_and_their_results_come_by_their_streams():
    async with Fleet(
        [a_spec("ohio"), a_spec("japan")], lambda spec, *_: [sys.executable, "-c", A_GENERATOR, spec.region]
    ) as fleet:
        await fleet.ready()
        fleet.start(Load(seconds=0.01, warm_up_s=0.0, cool_down_s=0.0))
        found = await fleet.finish(timeout_s=60.0)
    assert [each.measured.errors for each in found] == [{"ohio": 3}, {"japan": 3}]


async def test_a_generator_that_dies_is_a_failure_with_its_last_words_and_what_to_do():
    async with Fleet(
        [a_spec("ohio")], lambda *_: [sys.executable, "-c", "import nothing_of_that_name"], hint=" (build it anew)"
    ) as fleet:
        with pytest.raises(LoadError, match=r"No module named 'nothing_of_that_name' \(build it anew\)"):
            await fleet.ready()


async def test_a_result_that_breaks_off_is_a_failure():
    broken = A_GENERATOR.replace("len(packed)), packed)", "len(packed)), packed[:-1])")
    async with Fleet([a_spec("ohio")], lambda *_: [sys.executable, "-c", broken, "ohio"]) as fleet:
        await fleet.ready()
        fleet.start(Load(seconds=0.01, warm_up_s=0.0, cool_down_s=0.0))
        with pytest.raises(LoadError, match="its result did not arrive"):
            await fleet.finish(timeout_s=60.0)
