# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own workings: what fails is told and costs nothing else, and what is counted is counted right."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from benchmarks import own_route, page_load
from benchmarks.control import Control, connections_to, rounds_of
from benchmarks.installed import closure
from benchmarks.limits import emulator_takes, file_copy, socket_copy
from benchmarks.processes import MeasureFailedError, call
from benchmarks.report import Part, Row, carry_out, failed, ratio, table
from benchmarks.usage import measured


def test_failing_part_is_a_row_and_loses_no_other():
    def parts():
        yield Part("good", lambda: [Row("first", "1")])
        yield Part("bad", lambda: [Row("never", str(1 / 0))])
        yield Part("good", lambda: [Row("last", "2")])

    shown: list[str] = []
    rows = carry_out("measure", parts, shown.append)
    assert [row.measure for row in rows] == ["first", "measure: bad", "last"]
    assert rows[1].is_failure
    assert rows[1].met is False
    assert "ZeroDivisionError" in shown[1]


def test_measure_that_cannot_begin_keeps_what_it_had():
    def parts():
        yield Part("good", lambda: [Row("first", "1")])
        raise OSError("no | emulator")

    rows = carry_out("measure", parts, lambda text: None)
    assert [row.measure for row in rows] == ["first", "measure"]
    assert len({text.count("|") for text in table(rows).splitlines()}) == 1


def test_process_that_fails_says_why(tmp_path):
    with pytest.raises(MeasureFailedError, match="No such file"):
        call("limits:file_read", work=tmp_path, path=str(tmp_path / "absent"))
    assert list(tmp_path.iterdir()) == []


def test_process_that_takes_too_long_is_ended(tmp_path):
    start = time.monotonic()
    with pytest.raises(MeasureFailedError, match="longer than"):
        call("limits:file_read", work=tmp_path, timeout=1, path="/dev/zero")
    assert time.monotonic() - start < 10


def test_process_returns_its_result(tmp_path):
    assert set(call("machine:named_versions", work=tmp_path, names=["requests", "no-such-thing"])) == {
        "Python",
        "requests",
    }


def test_memory_is_that_of_the_work_alone():
    before = measured(lambda: bytearray(80_000_000))
    after = measured(lambda: bytearray(1_000))
    assert 75_000_000 < before["memory"] < 90_000_000
    assert after["memory"] < 5_000_000


def test_copies_of_the_limit_are_copies(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 20_000)
    for number, copy in enumerate((socket_copy, file_copy)):
        target = tmp_path / str(number)
        assert copy(str(source), str(target)) > 0
        assert target.read_bytes() == source.read_bytes()


def test_bare_upload_arrives_whole(gemini_batch_emulator, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"0123456789" * 300_000)
    assert emulator_takes(gemini_batch_emulator.url, str(source)) > 0
    control = Control(gemini_batch_emulator.url)
    assert [file["sizeBytes"] for file in control.ask("GET", "/v1beta/files")["files"]] == ["3000000"]


def test_connections_are_counted_from_outside():
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = server.getsockname()
        with connections_to(f"http://127.0.0.1:{place[1]}") as connections:
            held = [socket.create_connection(place) for _ in range(3)]
            time.sleep(0.5)
            for connection in held:
                connection.close()
    assert connections.most == 3


def test_rounds_are_told_apart_by_their_first_page():
    first, more = (
        {"path": "/v1beta/batches", "query": "pageSize=100"},
        {
            "path": "/v1beta/batches",
            "query": "pageSize=100&pageToken=p1",
        },
    )
    single = {"path": "/v1beta/batches/a", "query": ""}
    assert rounds_of([more, single, first, more, single, first, more, more, first]) == [3, 3]


def test_what_a_distribution_brings_leaves_its_extras_out():
    ours = closure("airflow-provider-gemini-batch")
    assert {"apache-airflow", "google-auth", "msgspec", "requests"} <= ours
    assert "pytest" not in ours


def test_failure_fits_into_a_cell():
    row = failed("measure", ValueError("two\nlines | and a bar"))
    assert "\n" not in row.ours
    assert "|" not in row.ours


@pytest.mark.parametrize(
    ("ours", "official", "text"), [(1, 1000, "1/1,000"), (3, 4, "0.75"), (3, 1, "3.00"), (0, 1, "")]
)
def test_ratio_reads_as_ours_to_theirs(ours, official, text):
    assert ratio(ours, official) == text


def test_click_whose_connection_is_closed_meanwhile_is_made_again():
    """The second request of the first connection is answered by a reset, as in a server that was about to close it."""

    def serve(listener: socket.socket) -> None:
        for requests in (2, 1):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                if requests == 2:
                    connection.recv(1)  # what is left unread makes the close a reset
        listener.close()  # nobody answers the third click, at once or again

    async def clicks(port: int) -> list[bool]:
        async with page_load._people(SimpleNamespace(url=f"http://127.0.0.1:{port}"), "") as client:
            return [(await page_load._click(client, "/"))[1] for _ in range(3)]

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as server:
        serving = server.submit(serve, listener)
        assert asyncio.run(clicks(listener.getsockname()[1])) == [False, False, True]
        serving.result(5)


def test_own_route_is_asked_until_it_is_enough_and_faults_are_counted():
    served, third = [], threading.Event()

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            served.append(self.path)
            self.send_response(200 if len(served) == 1 else 500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            if len(served) == 3:
                third.set()

        def log_message(self, *_):
            """Say nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, 0.01)
        with own_route.asked(f"http://127.0.0.1:{server.server_port}", "t") as asking:
            assert third.wait(30)
            times, faults = own_route.ended(asking)
        server.shutdown()
    assert (len(times), faults) == (len(served), len(served) - 1)
