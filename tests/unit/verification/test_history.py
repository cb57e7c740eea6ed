"""The history format: what is written can be read, and what is wrong is named by its line."""

import io
import json

import pytest

from replica.verification.history import (
    PENDING_EVENTS_MAX,
    AnyEvent,
    Fault,
    FaultWindow,
    Header,
    History,
    HistoryError,
    Invoke,
    Ok,
    Recorder,
    brief,
    merge_events,
    parse_history,
    read_history,
    text,
    write_history,
)

HEADER = '{"type":"header","format":"synod-history","version":1,"model":"register"}'
INVOKE = '{"type":"invoke","id":1,"client":"a","operation":"write","key":"x","arguments":{"value":"1"},"time":1.0}'
OK = '{"type":"ok","id":1,"time":2.0}'
END = '{"type":"end","events":2}'


def record(recorder: Recorder) -> None:
    """Three operations, one of each outcome, and one that nobody heard of again."""
    write = recorder.invoke("a", "write", 1.0, key="x", arguments={"value": "1"}, intended=0.5)
    read = recorder.invoke("b", "read", 1.5, key="x", stale=True)
    recorder.fault(1.6, "partition", until=2.5, detail="1 | 2 3")
    recorder.ok(write, 2.0)
    recorder.fail(read, 2.5, "no leader")
    lost = recorder.invoke("a", "write", 3.0, key="x", arguments={"value": "2"})
    recorder.invoke("b", "write", 3.0, key="x", arguments={"value": "3"})
    recorder.unknown(lost, 4.0, "timed out")
    recorder.resolved(lost, 17)


def lines(*given: str) -> bytes:
    return ("\n".join(given) + "\n").encode()


def test_what_a_recorder_writes_is_what_is_read():
    header = Header(model="register", faults=(FaultWindow(0.0, "slow disk", 9.0),), attributes={"seed": 7})
    sink = io.BytesIO()
    written, kept = Recorder(header, sink), Recorder(header)
    record(written)
    record(kept)
    written.close()
    assert parse_history(sink.getvalue()) == kept.history()
    assert [each.outcome for each in kept.history().operations] == ["ok", "fail", "unknown", "unknown"]
    assert kept.history().operations[2].revision == 17
    assert [fault.kind for fault in kept.history().faults] == ["slow disk", "partition"]


def test_a_history_survives_being_written_to_a_file(tmp_path):
    recorder = Recorder(Header(model="register"))
    record(recorder)
    write_history(recorder.history(), tmp_path / "history.jsonl")
    again = read_history(tmp_path / "history.jsonl")
    assert list(again.events()) == list(recorder.history().events())


def test_a_recorder_with_a_sink_writes_while_it_runs_and_holds_little():
    sink = io.BytesIO()
    recorder = Recorder(Header(), sink)
    for index in range(PENDING_EVENTS_MAX):
        recorder.ok(recorder.invoke("a", "read", float(index), key="x"), index + 0.5)
    assert sink.getvalue().count(b"\n") >= PENDING_EVENTS_MAX
    with pytest.raises(ValueError, match="holds nothing"):
        recorder.history()


def test_of_equal_times_the_order_of_lines_decides():
    history = parse_history(
        lines(
            HEADER,
            INVOKE,
            '{"type":"ok","id":1,"time":1.0}',
            '{"type":"invoke","id":2,"client":"a","operation":"read","key":"x","time":1.0}',
            '{"type":"end","events":3}',
        )
    )
    first, second = history.operations
    assert (first.completed, first.completed_line) < (second.invoked, second.invoked_line)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (b"", 1, "empty"),
        (lines(INVOKE), 1, "begins with a header"),
        (lines(HEADER.replace("synod-history", "other")), 1, "format"),
        (lines(HEADER.replace(":1", ":2")), 1, "version 2"),
        (lines(HEADER, INVOKE, OK), 3, "truncated"),
        (lines(HEADER, INVOKE, OK, END)[:-12], 4, "truncated in the middle"),
        (lines(HEADER, INVOKE, OK, '{"type":"end","events":3}'), 4, "counts 3 events, but 2"),
        (lines(HEADER, INVOKE, OK, END, INVOKE), 5, "follows the end"),
        (lines(HEADER, HEADER), 2, "second header"),
        (lines(HEADER, INVOKE, "", OK, END), 3, "it is empty"),
        (lines(HEADER, "{'type':'invoke'}"), 2, "malformed"),
        (lines(HEADER, b"\xff\xfe".decode("latin-1"), END), 2, "malformed"),
        (lines(HEADER, '{"type":"envoke"}', END), 2, "envoke"),
        (lines(HEADER, '{"type":"ok","id":1}', END), 2, "time"),
        (lines(HEADER, '{"type":"ok","id":"1","time":2}', END), 2, "id"),
        (lines(HEADER, INVOKE[:-1] + ',"extra":1}', END), 2, "extra"),
        (lines(HEADER, OK, END.replace("2", "1")), 2, "never invoked"),
        (lines(HEADER, INVOKE, INVOKE, END), 3, "invoked again; it was on line 2"),
        (lines(HEADER, INVOKE, OK, OK, '{"type":"end","events":3}'), 4, "second outcome"),
        (lines(HEADER, INVOKE, OK.replace("2.0", "0.5"), END), 3, "before it was invoked"),
        (lines(HEADER, INVOKE, '{"type":"resolved","id":2,"revision":1}', END), 3, "never invoked"),
        (lines(HEADER, INVOKE, OK, '{"type":"resolved","id":1,"revision":1}', END.replace("2", "3")), 4, "its outcome"),
        (
            lines(HEADER, INVOKE, '{"type":"resolved","id":1,"revision":1}', OK, END.replace("2", "3")),
            4,
            "one is wrong",
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_line(content, line, message):
    with pytest.raises(HistoryError, match=message) as raised:
        parse_history(content)
    assert raised.value.line == line
    assert str(raised.value).startswith(f"line {line}: ")


def test_a_history_cut_anywhere_is_refused():
    sink = io.BytesIO()
    recorder = Recorder(Header(model="register"), sink)
    record(recorder)
    recorder.close()
    whole = sink.getvalue()
    for length in range(len(whole) - 1):
        with pytest.raises(HistoryError) as raised:
            parse_history(whole[:length])
        assert raised.value.line in {max(whole[:length].count(b"\n"), 1), whole[:length].count(b"\n") + 1}


def test_every_line_is_json_on_its_own():
    sink = io.BytesIO()
    recorder = Recorder(Header(), sink)
    recorder.invoke("a", "put", 0.0, key=text(b"\x00\xff\n"), arguments={"value": text(b"\r\n\xe2\x80\xa8")})
    recorder.close()
    kinds = [json.loads(line)["type"] for line in sink.getvalue().decode().split("\n")[:-1]]
    assert kinds == ["header", "invoke", "end"]
    assert parse_history(sink.getvalue()).operations[0].key == "\x00\xff\n"


def test_text_keeps_bytes_apart_and_in_order():
    keys = [bytes((first, second)) for first in range(256) for second in (0, 127, 128, 255)]
    assert sorted(keys) == sorted(keys, key=text)
    assert [text(key).encode("latin-1") for key in keys] == keys


def test_brief_tells_long_values_apart():
    assert brief(b"short") == "short"
    assert brief(b"x" * 1000) != brief(b"x" * 999 + b"y")
    assert len(brief(b"x" * 1000)) < 64


def test_merged_recordings_count_equal_times_as_concurrent():
    ended: list[AnyEvent] = [
        Invoke(id=1, client="a", operation="read", time=0.0, key="x"),
        Ok(id=1, time=1.0),
        Invoke(id=2, client="a", operation="read", time=1.0, key="x"),
    ]
    began: list[AnyEvent] = [Invoke(id=1, client="b", operation="read", time=1.0, key="x"), Ok(id=1, time=2.0)]
    merged = merge_events([ended, began])
    history = History.of_events(Header(), merged)
    assert {each.client for each in history.operations} == {"a", "b"}
    order = [(type(event).__name__, event.id) for event in merged if not isinstance(event, Fault)]
    of_b = next(each.id for each in history.operations if each.client == "b")
    assert order.index(("Invoke", of_b)) < order.index(("Ok", 1))
    assert order.index(("Ok", 1)) < order.index(("Invoke", 2))
