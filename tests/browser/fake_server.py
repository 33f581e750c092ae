"""Plays `moerge serve` where the page is to see what a real one seldom does: a model that loads, an error in a stream, hostile
text, 64 experts, 4000 tokens at once."""
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INFO = {"name": "fake", "context": 8192, "layers": 3, "experts": 4, "experts_per_token": 2,
        "expert_names": ["code", "maths", "prose", "talk"],
        "chat_template": True, "template_note": "", "show_routing": True,
        "sampling": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "max_tokens": -1, "repeat_penalty": 1.0}}


def route(index, info):
    """Two experts in each layer; most weight has the expert of the token's number."""
    first, second = index % info["experts"], (index + 1) % info["experts"]
    return {"index": index, "experts": [[first, second]] * info["layers"], "weights": [[0.75, 0.25]] * info["layers"]}


def chunks(pieces, info, routing, finish="stop"):
    """The chunks of an answer of these pieces, one token each, as moerge serve sends them."""
    def chunk(delta, tokens, known, finish=None, **more):
        told = {"moerge": {"tokens": tokens, "routing": [route(i, info) for i in known]}} if routing else {}
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | told | more

    for i, piece in enumerate(pieces):
        delta = piece if isinstance(piece, dict) else {"content": piece}
        yield chunk(delta, i + 1, [i - 1] if i else [])
    yield chunk({}, len(pieces), [len(pieces) - 1] if finish == "stop" else [], finish)
    yield {"choices": [], "usage": {"completion_tokens": len(pieces)},
           "timings": {"prompt_n": 7, "prompt_per_second": 300.0, "predicted_n": len(pieces), "predicted_per_second": 45.5}}


class FakeServer:
    """`answer(request, info)` gives the chunks: objects, or bytes to be sent as they are. Fields may change between requests."""

    def __init__(self, page, policy, answer, **info):
        self.page, self.policy, self.answer, self.info = page, policy, answer, INFO | info
        self.key, self.loading, self.refusal, self.asked = None, 0, None, []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words):
                pass

            def reply(self, code, kind, body, **headers):
                self.send_response(code)
                for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def fail(self, code, message):
                error = {"error": {"code": code, "message": message, "type": "fake"}}
                self.reply(code, "application/json", json.dumps(error).encode())

            def refused(self):
                if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                    self.fail(401, "Invalid API key")
                elif server.loading > 0:
                    server.loading -= 1
                    self.fail(503, "Loading model")
                else:
                    return False
                return True

            def do_GET(self):
                if self.path == "/":
                    self.reply(200, "text/html; charset=utf-8", server.page, **{"Content-Security-Policy": server.policy})
                elif self.path != "/v1/moerge":
                    self.fail(404, "Not here")
                elif not self.refused():
                    self.reply(200, "application/json", json.dumps(server.info).encode())

            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.refused():
                    return
                server.asked.append(request)
                if server.refusal:
                    self.fail(*server.refusal)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for part in server.answer(request, server.info):
                        self.wfile.write(part if isinstance(part, bytes) else b"data: " + json.dumps(part).encode() + b"\n\n")
                        self.wfile.flush()
                except (BrokenPipeError, ConnectionResetError):
                    pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
