#!/usr/bin/env python3
"""Proves that HTTP clients that mean harm do none: requests that two servers could read in two ways, sizes beyond every
limit, headers and bodies that never end, floods behind a refusal, answers that nobody reads; while a client that
behaves is answered within 100 ms of the node's clock(). Run it with the interpreter that python.sh prints."""

import random
import socket
import struct
import threading
import time

from node import PATIENCE, Node, check, main

HOST = b"Host: localhost\r\n"
LARGEST_BODY = 16 << 20
# The largest answer that is always there.
LARGE = b"/openapi.json"


class HTTPNode(Node):
    """A node with an HTTP listener."""

    def __init__(self):
        super().__init__(http=True)

    def raw(self, receive_buffer=None):
        """A raw connection."""
        made = socket.socket()
        if receive_buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.connect(("127.0.0.1", self.http_port))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.settimeout(PATIENCE)
        return made


def read_answer(connection, buffer):
    """One answer: status, fields by lower-case name, body. None at the end of the connection."""
    while b"\r\n\r\n" not in buffer:
        data = connection.recv(65_536)
        if not data:
            check(not buffer, f"half an answer: {bytes(buffer[:80])}")
            return None
        buffer += data
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}
    length = int(fields.get("content-length", 0))
    while len(rest) < length:
        data = connection.recv(65_536)
        check(data, "half a body")
        rest += data
    buffer[:] = rest[length:]
    return int(lines[0].split(" ")[1]), fields, rest[:length]


def everything(connection):
    """All answers up to the end of the connection; a reset fails."""
    buffer, answers = bytearray(), []
    while (answer := read_answer(connection, buffer)) is not None:
        answers.append(answer)
    return answers


class Pacer:
    """A client that behaves, on a connection of its own: each request is answered within 100 ms."""

    def __init__(self, node):
        self.node = node
        self.slowest = 0.0
        self.count = 0
        self.wrong = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        connection, buffer = self.node.raw(), bytearray()
        request = b"POST /TOPIC/well/behaved HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"
        while not self.stop.is_set():
            start = self.node.clock()
            try:
                connection.sendall(request)
                answer = read_answer(connection, buffer)
            except OSError as error:
                self.wrong.append(str(error))
                return
            if answer is None or answer[0] != 202:
                self.wrong.append(str(answer))
                return
            self.slowest = max(self.slowest, self.node.clock() - start)
            self.count += 1
            time.sleep(0.005)

    def finish(self):
        self.stop.set()
        self.thread.join()
        check(not self.wrong, f"the client that behaves got {self.wrong}")
        check(self.slowest < 0.1, f"the client that behaves waited {self.slowest * 1_000:.0f} ms")
        return f"{self.count} requests of a client that behaves, slowest {self.slowest * 1_000:.0f} ms"


def bad_requests():
    """Bytes and the status they are refused with."""
    post = b"POST /TOPIC/a HTTP/1.1\r\n" + HOST
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    smuggled = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    yield from (
        (post + fields + b"\r\n" + smuggled, status)
        for fields, status in (
            (b"Content-Length: 1\r\nContent-Length: 1\r\n", 400),
            (b"Content-Length: 0\r\nContent-Length: 44\r\n", 400),
            (b"Content-Length: 44\r\nTransfer-Encoding: chunked\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 44\r\n", 400),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", 400),
            (b"Transfer-Encoding : chunked\r\n", 400),
            (b"Transfer-Encoding: \x0bchunked\r\n", 400),
            (b"Transfer-Encoding: chunked, identity\r\n", 501),
            (b"Transfer-Encoding: xchunked\r\n", 501),
            (b"Transfer-Encoding: gzip\r\n", 501),
            (b"Content-Length: +1\r\n", 400),
            (b"Content-Length: 0x1\r\n", 400),
            (b"Content-Length: 1,1\r\n", 400),
            (b"Content-Length: -1\r\n", 400),
            (b"Content-Length: 99999999999999999999\r\n", 400),
            (b"Content-Length: 18446744073709551617\r\n", 400),
            (b"Folded: a\r\n b\r\n", 400),
            (b" Content-Length: 1\r\n", 400),
            (b"A: b\nContent-Length: 44\r\n", 400),
            (b"A: b\rContent-Length: 44\r\n", 400),
            (b"A: \0\r\n", 400),
            (b"A\0: b\r\n", 400),
            (b"A b: c\r\n", 400),
            (b": b\r\n", 400),
            (b"Host: other\r\n", 400),
            (b"A: " + b"x" * 33_000 + b"\r\n", 431),
            (b"A: b\r\n" * 101, 431),
            (b"Expect: miracles\r\nContent-Length: 1\r\n", 417),
            (f"Content-Length: {LARGEST_BODY + 1}\r\n".encode(), 413),
        )
    )
    yield from (
        (chunked + chunk + smuggled, 413 if chunk[:3] == b"FFF" else 400)
        for chunk in (
            b"zz\r\n", b"-1\r\n", b"0x1\r\n", b" 1\r\n", b"1 \r\n", b"1\n", b"1;\n", b"1;a\rb", b"1\r\nab", b"1\r\na\n", b"\r\n",
            b"10000000000000000\r\n", b"FFFFFFFFFFFF\r\n", b"0\n\r\n", b"0\r\nA: b\n\r\n", b"0\r\n A: b\r\n", b"0\r\nA b\r\n",
            b"1;" + b"x" * 2_000 + b"\r\n",
        )
    )
    yield from (
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost:\r\nHost:\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /#a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://user@a/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET / HTTP/0.9\r\n" + HOST + b"\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /" + b"x" * 17_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00" + b"\x01" * 600, 400),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a", 400),
    )


def refused(node):
    """Each of these is answered once, and then the connection ends: what stands behind is not a request."""
    count = 0
    for words, status in bad_requests():
        for pieces in (len(words), 7):
            connection = node.raw()
            try:
                for start in range(0, len(words), max(pieces, len(words) // 50)):
                    connection.sendall(words[start : start + max(pieces, len(words) // 50)])
            except OSError:
                pass  # It was refused while we were talking.
            answers = [answer[0] for answer in everything(connection)]
            check(answers == [status], f"{words[:80]} is answered {answers} instead of {status}")
            connection.close()
            count += 1
    return count


def unknown_methods(node):
    connection, buffer = node.raw(), bytearray()
    for method in (b"BREW", b"TRACE", b"PROPFIND", b"get"):
        connection.sendall(method + b" /TOPIC/a HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = read_answer(connection, buffer)
        check(answer and answer[0] == 405 and "allow" in answer[1], f"{method} is answered {answer}")
    connection.sendall(b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n" + b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    check([answer[0] for answer in everything(connection)] == [405], "what stands behind a CONNECT is read")


def body_not_read(node):
    """A body over the limit is refused before it comes, and nothing is kept of what comes."""
    before = node.resident_kilobytes()
    for framing in (f"Content-Length: {1 << 30}\r\n\r\n".encode(), b"Transfer-Encoding: chunked\r\n\r\n40000000\r\n"):
        connection = node.raw()
        connection.sendall(b"POST /TOPIC/a HTTP/1.1\r\n" + HOST + framing)
        sent = 0
        try:
            while sent < 64 << 20:
                connection.sendall(b"x" * 65_536)
                sent += 65_536
        except OSError:
            pass  # The node has waited long enough.
        try:
            answers = [answer[0] for answer in everything(connection)]
            check(answers == [413], f"a body of 1 GB is answered {answers}")
        except ConnectionResetError:
            pass
        connection.close()
    grown = node.resident_kilobytes() - before
    check(grown < 16_384, f"bodies that are too large cost {grown} KiB")


def slow(node, results):
    """Headers end at 10 s, bodies at 30 s, silence at 10 s; bytes now and then help nobody."""
    post = b"POST /TOPIC/a HTTP/1.1\r\n" + HOST
    cases = [
        ("silence", b"", b"", 10, None),
        ("a header", b"GET / HTTP/1.1\r\n", b"A: b\r\n", 10, 408),
        ("a header without line ends", b"GET / HTTP/1.1\r\nA: ", b"x", 10, 408),
        ("empty lines", b"\r\n", b"", 10, 408),
        ("a body", post + b"Content-Length: 1000\r\n\r\n", b"x", 30, 408),
        ("chunks", post + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 30, 408),
        ("a chunk's size", post + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", 30, 408),
    ]

    def run(name, first, again, seconds, status):
        connection = node.raw()
        connection.settimeout(0.5)
        start, fair = time.monotonic(), node.clock()
        connection.sendall(first)
        received = b""
        while time.monotonic() - start < seconds + PATIENCE:
            try:
                data = connection.recv(65_536)
                if not data:
                    break
                received += data
            except socket.timeout:
                connection.sendall(again)
            except OSError:
                break
        lasted, most = time.monotonic() - start, node.clock() - fair
        answered = int(received.split(b" ")[1]) if received else None
        if answered != status or lasted < seconds - 0.5 or most > seconds + 3.5:
            results.append(f"{name}: answered {answered} after {lasted:.1f} s instead of {status} after {seconds} s")

    threads = [threading.Thread(target=run, args=case) for case in cases]
    for thread in threads:
        thread.start()
    return threads


def drips(node):
    """Headers of 32 KiB, byte by byte, as fast as they can be sent."""

    def run():
        connection = node.raw()
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + HOST + b"A: ")
        for _ in range(20_000):
            connection.sendall(b"x")
        connection.sendall(b"\r\n\r\n")
        check(read_answer(connection, bytearray()) is not None, "a header that drips quickly is not answered")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def pipelines(node):
    """10,000 requests in one go are all answered; the same for somebody who never reads costs little memory."""
    connection, buffer = node.raw(), bytearray()
    count = 10_000
    words = b"".join(b"POST /TOPIC/pipe HTTP/1.1\r\n" + HOST + b"\r\n" for _ in range(count))
    sender = threading.Thread(target=connection.sendall, args=(words,))
    sender.start()
    for number in range(count):
        answer = read_answer(connection, buffer)
        check(answer and answer[0] == 202, f"request {number} of a pipeline is answered {answer}")
    sender.join()
    connection.close()

    before = node.resident_kilobytes()
    deaf = []
    for _ in range(10):
        connection = node.raw(receive_buffer=4_096)
        connection.settimeout(0.5)
        try:
            connection.sendall((b"GET " + LARGE + b" HTTP/1.1\r\n" + HOST + b"\r\n") * 4_000)
        except socket.timeout:
            pass  # It is no longer read, as it should be.
        deaf.append(connection)
    time.sleep(0.5)
    grown = node.resident_kilobytes() - before
    check(grown < 65_536, f"10 clients that do not read cost {grown} KiB")
    for connection in deaf:
        connection.close()


def half_closes(node):
    """Who has said all is still answered, all of it."""
    connection = node.raw(receive_buffer=4_096)
    connection.sendall((b"GET " + LARGE + b" HTTP/1.1\r\n" + HOST + b"\r\n") * 299)
    connection.sendall(b"GET " + LARGE + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    connection.shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    sizes = [len(answer[2]) for answer in everything(connection)]
    check(len(sizes) == 300 and len(set(sizes)) == 1, f"a client that half-closed got {len(sizes)} answers")
    connection.close()


def resets(node):
    """Connections reset in the middle of everything."""
    generator = random.Random(20_261_121)
    words = b"POST /TOPIC/a HTTP/1.1\r\n" + HOST + b"Content-Length: 5000\r\n\r\n" + b"x" * 5_000
    words += b"GET /events?filter=%23 HTTP/1.1\r\n" + HOST + b"\r\n"
    for _ in range(500):
        connection = node.raw()
        connection.sendall(words[: generator.randrange(len(words) + 1)])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def run():
    with HTTPNode() as node:
        for _ in range(20):
            connection = node.raw()
            connection.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
            everything(connection)
            connection.close()
        time.sleep(0.3)
        descriptors, memory = node.descriptors(), node.resident_kilobytes()
        pacer = Pacer(node)
        results = []
        waiting = slow(node, results)
        count = refused(node)
        unknown_methods(node)
        drips(node)
        pipelines(node)
        half_closes(node)
        resets(node)
        body_not_read(node)
        for thread in waiting:
            thread.join()
        check(not results, "; ".join(results))
        said = pacer.finish()
        for _ in range(100):
            if node.descriptors() <= descriptors:
                break
            time.sleep(0.1)
        check(node.descriptors() <= descriptors, f"{node.descriptors()} descriptors instead of {descriptors}")
        grown = node.resident_kilobytes() - memory
        check(grown < 32_768, f"{grown} KiB more than before")
    return f"hostile_http: {count} bad requests refused, {said}"


if __name__ == "__main__":
    main(run)
