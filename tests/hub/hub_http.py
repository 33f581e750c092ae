"""HTTP for the fake Hub's origins: bodies of any size in and out, the log of requests, and faults.

A fault is a JSON object; the first that fits a request takes effect, `n` times in all.

    method, path, origin    which requests: "GET", a regular expression that is searched in the path with its query, "hub",
                            "cdn" or "stranger". What is left out fits everything.
    n                       how many times (1)
    status, headers, body   this answer instead; without a status, `headers` are added to the usual answer
    drop_headers            a list of headers that the usual answer lacks
    redirect                a URL: 302 to there
    lost_answer             do what was asked for, then close the connection without an answer
    cut                     close the connection after so many bytes of the answer's body; of a request that has a body: after
                            so many bytes of that, without an answer; of a HEAD: without an answer
    stall, stall_after      so many seconds of silence before the answer, or after so many bytes of its body
    rate                    bytes a second, of the answer's body
    ignore_range            200 and everything, although a Range was asked for
    corrupt                 flip all bits of the byte at this offset of the file
    etag, size              a lie in ETag and X-Linked-Etag, in X-Linked-Size
"""
import contextlib, json, os, re, socket, threading, time, traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

from hub_store import HubError

FAULT_KEYS = set("""method path origin n status headers body drop_headers redirect lost_answer cut stall stall_after rate
ignore_range corrupt etag size""".split())
SLICE = 8 << 20  # bytes handed to the kernel at once; the log's `sent` is as exact as this when a client goes away
PIECE = 1 << 20  # bytes of a request's body held at once


class Connection(Exception):
    """The connection ends here, with no (further) answer."""


class Journal:
    """The requests that came and the faults that wait, for all origins of one Hub."""

    def __init__(self):
        self.records, self.faults, self.running = [], [], 0
        self.changed = threading.Condition()

    def begin(self, record):
        with self.changed:
            self.records.append(record)
            self.running += 1

    def end(self):
        with self.changed:
            self.running -= 1
            self.changed.notify_all()

    def log(self, patience_s=1):
        """What came so far, in its order. Waits a little for requests in progress, so that whoever has read an answer
        finds it here complete."""
        with self.changed:
            self.changed.wait_for(lambda: self.running == 0, patience_s)
            return [dict(record) for record in self.records]

    def add_fault(self, fault):
        if unknown := sorted(set(fault) - FAULT_KEYS):
            raise ValueError(f"a fault has no {unknown}; it has {sorted(FAULT_KEYS)}")
        with self.changed:
            self.faults.append({"n": 1, **fault})

    def take_fault(self, origin, method, path):
        with self.changed:
            for fault in self.faults:
                if (fault["n"] > 0 and fault.get("origin", origin) == origin and fault.get("method", method) == method
                        and re.search(fault.get("path", ""), path)):
                    fault["n"] -= 1
                    return fault
        return {}

    def clear(self, log=True, faults=True):
        with self.changed:
            if log:
                self.records = []
            if faults:
                self.faults = []


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True
    block_on_close = False

    def __init__(self, port, handler, hub):
        self.hub = hub
        super().__init__(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # clients go away: many tests are about that


class Handler(BaseHTTPRequestHandler):
    """One connection to one origin. A subclass has ORIGIN and route()."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    ORIGIN = None

    def log_message(self, *_):
        pass

    # ------------------------------------------------------------------------------------------------------ one request

    def do_any(self):
        self.hub = self.server.hub
        self.url_path, _, query = self.path.partition("?")
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self.body_left = 0 if self.chunked else int(self.headers.get("Content-Length") or 0)
        self.fault, self.record = {}, {}
        if self.url_path.startswith("/_"):
            self.answering(self.control)
            return
        everything = [self.path, *self.headers.values()]
        token = next((token for token in self.hub.store.tokens if any(token in text for text in everything)), None)
        self.record = {"method": self.command, "path": self.path, "origin": self.ORIGIN, "range": self.headers.get("Range"),
                       "auth": "Authorization" in self.headers, "token": token, "agent": self.headers.get("User-Agent"),
                       "status": None, "sent": 0, "received": 0}
        self.hub.journal.begin(self.record)
        try:
            self.fault = self.hub.journal.take_fault(self.ORIGIN, self.command, self.path)
            self.answering(self.route_or_fault)
        finally:
            self.hub.journal.end()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_any

    def answering(self, function):
        """Runs what answers the request; afterwards its body has been read, or the connection is closed."""
        try:
            try:
                function()
            except HubError as error:
                self.drain()
                self.send(error.status, error.body if error.body is not None else b"", **error.headers)
            self.drain()
        except (Connection, OSError):
            self.hang_up()
        except Exception:  # of this server, or of a client that sends what the protocol does not have
            traceback.print_exc()
            if self.record.get("status") is None:
                with contextlib.suppress(Connection, OSError):
                    self.send(500, {"error": traceback.format_exc(limit=-1)})
            self.hang_up()

    def route_or_fault(self):
        fault = self.fault
        if "stall" in fault and "stall_after" not in fault:
            time.sleep(fault["stall"])
        if "cut" in fault and self.command == "HEAD":
            raise Connection
        if "redirect" in fault:
            self.drain()
            self.send(302, b"", Location=fault["redirect"])
        elif "status" in fault:
            self.drain()
            self.send(fault["status"], fault.get("body", {"error": "injected"}), **fault.get("headers", {}))
        else:
            self.route()

    def hang_up(self):
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    # --------------------------------------------------------------------------------------------------- what comes in

    def pieces(self):
        """The request's body, at most PIECE bytes at a time."""
        limit = self.fault.get("cut") if self.command in ("POST", "PUT", "PATCH") else None
        while True:
            if self.chunked and self.body_left == 0:
                self.body_left = int(self.rfile.readline().split(b";")[0] or b"0", 16)
                if self.body_left == 0:
                    self.chunked = False
                    self.rfile.readline()
            if self.body_left == 0:
                return
            wanted = min(PIECE, self.body_left)
            if limit is not None:
                wanted = min(wanted, limit - self.record["received"])
                if wanted == 0:
                    raise Connection
            piece = self.rfile.read(wanted)
            if not piece:
                raise Connection
            self.body_left -= len(piece)
            if self.record:
                self.record["received"] += len(piece)
            if self.chunked and self.body_left == 0:
                self.rfile.readline()
            yield piece

    def drain(self):
        for _ in self.pieces():
            pass

    def json(self):
        content = b"".join(self.pieces())
        try:
            return json.loads(content or b"{}")
        except ValueError:
            raise HubError(400, {"error": "The body is not JSON"}) from None

    # --------------------------------------------------------------------------------------------------- what goes out

    def head(self, status, length, **headers):
        """Status and headers, as the fault wants them."""
        fault = self.fault
        self.record["status"] = status
        if fault.get("lost_answer"):
            raise Connection
        headers = {"Content-Type": "application/json", "Content-Length": str(length), **headers}
        headers["X-Request-Id"] = f"Root=1-{time.time_ns():x}"
        if "status" not in fault:
            headers.update(fault.get("headers", {}))
        if "etag" in fault:
            headers.update({name: f'"{fault["etag"]}"' for name in ("ETag", "X-Linked-Etag") if name in headers})
        if "size" in fault:
            headers["X-Linked-Size"] = str(fault["size"])
        dropped = {name.lower() for name in fault.get("drop_headers", [])}
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        self.end_headers()

    def send(self, status, body=b"", **headers):
        """A small answer: JSON of a list or a dict, plain text, or bytes."""
        self.drain()
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        elif isinstance(body, str):
            body, headers = body.encode(), {"Content-Type": "text/plain", **headers}
        self.head(status, len(body), **headers)
        if self.command != "HEAD":
            self.transfer(body, 0, len(body))

    def send_file(self, source, etag, **headers):
        """A file, or the part of it that a Range asks for. `source`: bytes, or the path of a file of any size."""
        self.drain()
        file = None if isinstance(source, bytes) else open(source, "rb")
        try:
            size = len(source) if file is None else os.fstat(file.fileno()).st_size
            headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "ETag": f'"{etag}"', **headers}
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if self.fault.get("ignore_range") or self.headers.get("If-Range", f'"{etag}"') != f'"{etag}"':
                wanted = None
            begin, end, status = 0, size, 200
            if wanted and wanted[0] != "bytes=-":
                if size == 0:  # no range of an empty file can be satisfied; its size is said all the same
                    headers["Content-Range"] = "bytes */0"
                else:
                    if wanted[1]:
                        begin, end = int(wanted[1]), min(size, int(wanted[2]) + 1 if wanted[2] else size)
                    else:
                        begin = max(0, size - int(wanted[2]))
                    if begin >= end:
                        self.send(416, b"", **{"Content-Range": f"bytes */{size}"})
                        return
                    status = 206
                    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            self.head(status, end - begin, **headers)
            if self.command != "HEAD":
                self.transfer(source if file is None else file, begin, end)
        finally:
            if file:
                file.close()

    def transfer(self, source, begin, end):
        """Sends bytes [begin, end) of bytes or an open file, with the fault's stalls, limits and lies. The kernel copies
        what comes from a file."""
        fault, plain = self.fault, not self.fault
        cut = begin + fault["cut"] if "cut" in fault else None
        stop = end if cut is None else min(end, cut)
        marks = []
        if "stall_after" in fault:
            marks.append(begin + fault["stall_after"])
        if "corrupt" in fault:
            marks += [fault["corrupt"], fault["corrupt"] + 1]
        slice_size = SLICE if "rate" not in fault else max(1, min(SLICE, fault["rate"] // 20))
        started, at = time.monotonic(), begin
        while at < stop:
            upto = min([stop, at + slice_size, *(mark for mark in marks if mark > at)])
            if not plain:
                if fault.get("stall_after") == at - begin:
                    time.sleep(fault["stall"])
                if "rate" in fault:
                    time.sleep(max(0, started + (at - begin) / fault["rate"] - time.monotonic()))
            if fault.get("corrupt") == at:
                byte = source[at:at + 1] if isinstance(source, bytes) else os.pread(source.fileno(), 1, at)
                self.connection.sendall(bytes([byte[0] ^ 0xFF]))
            elif isinstance(source, bytes):
                self.connection.sendall(memoryview(source)[at:upto])
            else:
                upto = at + self.kernel_copy(source, at, upto - at)
            self.record["sent"] = self.record.get("sent", 0) + upto - at
            at = upto
        if cut is not None:
            raise Connection

    def kernel_copy(self, file, at, count):
        sent = os.sendfile(self.connection.fileno(), file.fileno(), at, count)
        if sent == 0:
            raise Connection  # the file has become shorter
        return sent

    # ---------------------------------------------------------------------------------------------------- the controls

    def control(self):
        """What tests ask of the server itself; never logged, never faulty."""
        hub, what = self.hub, f"{self.command} {self.url_path}"
        try:
            if what == "GET /_log":
                self.send(200, hub.log())
            elif what == "DELETE /_log":
                self.send(200, hub.journal.clear(faults=False) or {})
            elif what == "DELETE /_faults":
                self.send(200, hub.journal.clear(log=False) or {})
            elif what == "POST /_fault":
                self.send(200, hub.journal.add_fault(self.json()) or {})
            elif what == "POST /_meta":
                arguments = self.json()
                self.send(200, hub.meta(arguments.pop("id"), **arguments) or {})
            elif what == "POST /_listing":
                arguments = self.json()
                self.send(200, hub.listing(arguments["id"], arguments.get("rows")) or {})
            elif what == "POST /_seed":
                arguments = self.json()
                self.send(200, {"commit": hub.seed(arguments.pop("id"), arguments.pop("folder"), **arguments)})
            else:
                raise HubError(404, {"error": f"no such control: {what}"})
        except (KeyError, TypeError, ValueError) as error:
            raise HubError(400, {"error": repr(error)}) from None
