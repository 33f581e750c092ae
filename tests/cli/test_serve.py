"""moerge serve: what it answers over HTTP, whom it refuses, and that no request ends it."""
import atexit, concurrent.futures, contextlib, functools, http.client, json, os, re, shutil, signal, socket, subprocess
import tempfile, threading, time
from pathlib import Path

from harness import rows

FAMILY = Path(__file__).resolve().parents[2] / "examples/family/moe.yaml"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CODE = "    for name in sorted(names):\n        if"
TALE = "She turned from the window with a sigh, for the"
making = threading.Lock()


@functools.cache
def family_of(binary):
    folder = Path(tempfile.mkdtemp(prefix="moerge-serve-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([binary, "gguf", FAMILY, folder / "family.gguf", "--type", "q8_0"], check=True, capture_output=True)
    return folder / "family.gguf"


def family(case):
    with making:  # the tests run side by side
        return family_of(case.binary)


class Server:
    def __init__(self, process, port, said):
        self.process, self.port, self.said = process, port, said

    def connect(self, timeout=20):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, **headers):
        """Status, headers and text of an answer."""
        with contextlib.closing(self.connect()) as connection:
            data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {"Content-Type": "application/json", **named})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def post(self, path, **body):
        status, _, text = self.ask("POST", path, body)
        assert status == 200, f"{status}: {text}"
        return json.loads(text)

    def refuses(self, code, *sentences, method="POST", path=TEXT, body=None, **headers):
        status, _, text = self.ask(method, path, body, **headers)
        assert status == code, f"{status} instead of {code}: {text[:300]}"
        error = json.loads(text)["error"]
        assert error["code"] == code and error["type"] and isinstance(error["message"], str), error
        for sentence in sentences:
            assert sentence in error["message"], error
        return error

    def stream(self, path, **body):
        """The chunks of a stream; it has to end with [DONE]."""
        status, headers, text = self.ask("POST", path, {**body, "stream": True})
        assert status == 200 and headers["Content-Type"].startswith("text/event-stream"), text
        lines = [line.removeprefix("data: ") for line in text.split("\n") if line]
        assert lines[-1] == "[DONE]", lines[-1]
        return [json.loads(line) for line in lines[:-1]]

    def lives(self):
        assert self.process.poll() is None, f"the server ended with {self.process.poll()}"
        assert self.post(TEXT, prompt=CODE, max_tokens=1)["choices"]

    def end(self, name=signal.SIGINT):
        self.process.send_signal(name)
        return self.process.wait(10)


def serve(case, *flags, port=0, env={}):
    command = case.command(["serve", family(case), "--port", port, "-t", "1", *flags])
    log = open(case.path(f"stderr-{len(case.started)}"), "wb")
    process = subprocess.Popen(command, cwd=case.work, env={**case.variables(), **env}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=log)
    case.started.append(process)
    line = process.stdout.readline().decode()
    found = re.search(r"http://[^ ]+:(\d+)", line)
    assert found, f"it printed {line!r}, {Path(log.name).read_text()}"
    return Server(process, int(found[1]), line)


def text_of(answer):
    choice = answer["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def streamed(chunks):
    return "".join(choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
                   for chunk in chunks for choice in chunk["choices"])


def routing_of(chunks):
    return [token for chunk in chunks for token in chunk.get("moerge", {}).get("routing", [])]


# ------------------------------------------------------------------------------------------------------------ answers


def test_help_teaches(case):
    case.run("serve", "--help").exits(0).prints("Usage: moerge serve", "curl http://127.0.0.1:8080", "from openai import OpenAI",
                                                '"routing": True', "MOERGE_API_KEY")


def test_answers(case):
    server = serve(case, "--alias", "relatives")
    assert server.said == (f"moerge serves relatives at http://127.0.0.1:{server.port} (page), "
                           f"http://127.0.0.1:{server.port}/v1 (API)\n"), server.said
    for path in ("/health", "/v1/health"):
        assert json.loads(server.ask("GET", path)[2]) == {"status": "ok"}
    assert json.loads(server.ask("GET", "/v1/models")[2])["data"][0]["id"] == "relatives"
    about = json.loads(server.ask("GET", "/v1/moerge")[2])
    assert (about["name"], about["experts"], about["experts_per_token"]) == ("relatives", 4, 2), about
    assert about["context"] == 1024 and not about["chat_template"] and about["template_note"] and not about["show_routing"]
    assert about["sampling"]["top_k"] == 40 and about["sampling"]["max_tokens"] == -1
    assert "relatives" not in about.get("expert_names", [])
    status, headers, page = server.ask("GET", "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and "moerge" in page
    assert headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    whole = dict(messages=[{"role": "user", "content": CODE}], max_tokens=12, temperature=0)
    answer = server.post(CHAT, **whole)
    assert answer["usage"]["completion_tokens"] == 12 and answer["model"] == "relatives"
    assert streamed(server.stream(CHAT, **whole)) == text_of(answer) == text_of(server.post("/chat/completions", **whole))
    plain = server.post(TEXT, prompt=CODE, max_tokens=12, temperature=0, logprobs=3)
    assert text_of(plain) == text_of(answer)  # without a template the text alone is the prompt
    tokens = plain["choices"][0]["logprobs"]["content"]
    assert len(tokens) == 12 and all(len(t["top_logprobs"]) == 3 and t["logprob"] <= 0 for t in tokens)
    assert streamed(server.stream("/completions", prompt=CODE, max_tokens=12, temperature=0)) == text_of(plain)
    ids = server.post("/tokenize", content="for name in")["tokens"]
    assert server.post("/detokenize", tokens=ids)["content"].strip() == "for name in"
    assert server.post("/apply-template", messages=[{"role": "user", "content": "x"}])["prompt"] == "x"
    assert json.loads(server.ask("GET", "/props")[2])["total_slots"] == 4
    assert "llamacpp:" in server.ask("GET", "/metrics")[2]


def test_routing(case):
    server = serve(case, "--show-routing")
    assert json.loads(server.ask("GET", "/v1/moerge")[2])["show_routing"]
    for path, asked in ((TEXT, {"prompt": CODE}), (CHAT, {"messages": [{"role": "user", "content": CODE}]})):
        usual = dict(asked, max_tokens=10, temperature=0)
        chunks = server.stream(path, **usual, routing=True)
        assert streamed(chunks) == text_of(server.post(path, **usual))
        routing = routing_of(chunks)
        # The last token is never read, so nobody routes it.
        assert [token["index"] for token in routing] == list(range(9)), routing
        for token in routing:
            assert len(token["experts"]) == len(token["weights"]) == 4
            assert all(len(set(row)) == 2 and set(row) <= set(range(4)) for row in token["experts"])
            assert all(abs(sum(row) - 1) < 0.002 for row in token["weights"])
        whole = server.post(path, **usual, routing=True)
        assert whole["moerge"] == {"tokens": 10, "routing": routing}
    server.refuses(400, "one prompt at a time", body={"prompt": ["a", "b"], "routing": True})
    server.refuses(400, "exceeds the available context", body={"prompt": "x " * 2000, "routing": True})


def test_two_clients_get_their_own_routing(case):
    server = serve(case)
    ask = lambda prompt: server.stream(TEXT, prompt=prompt, max_tokens=60, temperature=0, routing=True)
    alone = {prompt: ask(prompt) for prompt in (CODE, TALE)}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            together = dict(zip(alone, pool.map(ask, alone)))
            for prompt, chunks in alone.items():
                mine, theirs = routing_of(chunks), routing_of(together[prompt])
                assert len(mine) == len(theirs) == 59, (len(mine), len(theirs))
                text = streamed(chunks)
                if streamed(together[prompt]) == text:  # batches of other sizes round in other ways
                    same = sum(a["experts"] == b["experts"] for a, b in zip(mine, theirs))
                    assert same >= 55, f"{same} of 59 tokens are routed as before"
    other = sum(a["experts"] == b["experts"] for a, b in zip(*map(routing_of, alone.values())))
    assert other < 40, f"the two texts are hardly told apart: {other} of 59"


def test_a_client_that_goes_away_frees_its_slot(case):
    server = serve(case, "--parallel", "1")
    for routing in (False, True):
        with contextlib.closing(server.connect()) as connection:
            body = json.dumps({"prompt": CODE, "max_tokens": 900, "ignore_eos": True, "stream": True, "routing": routing})
            connection.request("POST", TEXT, body, {"Content-Type": "application/json"})
            assert b"data: " in connection.getresponse().read(40)
        start = time.monotonic()
        server.post(TEXT, prompt=CODE, max_tokens=1)
        assert time.monotonic() - start < 5


def test_32_clients_at_once(case):
    server = serve(case)
    expected = text_of(server.post(TEXT, prompt=CODE, max_tokens=8, temperature=0))
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(server.post, TEXT, prompt=CODE if i % 2 else f"{i} {TALE}", max_tokens=8, temperature=0)
                 for i in range(32)]
        answers = [text_of(future.result()) for future in asked]
    assert len(answers) == 32 and all(answers)
    assert answers[1::2].count(expected) >= 12, answers[1::2]
    server.lives()


# ------------------------------------------------------------------------------------------------------- bad requests


def test_bad_requests(case):
    server = serve(case, "--parallel", "2")
    code = {"prompt": "x", "max_tokens": 2}
    server.refuses(400, "line 1, column 11", body=b'{"prompt":}')
    server.refuses(400, "nested deeper than 64", body=b"[" * 1_000_000)
    server.refuses(400, "nested deeper than 64", path=CHAT, body=b'{"a":' * 1_000_000)
    server.refuses(400, "should be a JSON object, found array", body=b"[]")
    server.refuses(400, "members", body=json.dumps({str(i): i for i in range(5000)}).encode())
    server.refuses(400, "\"prompt\" is missing", body={})
    server.refuses(400, "\"messages\" should be a list, found string", path=CHAT, body={"messages": "x"})
    server.refuses(400, "texts only", path=CHAT, body={"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})
    server.refuses(400, "\"temperature\" should be a number from 0 to 100, found string", body={**code, "temperature": "hot"})
    server.refuses(400, "\"stream\" should be true or false", body={**code, "stream": 1})
    server.refuses(400, "n_probs", body={**code, "n_probs": 10**9})
    server.refuses(400, "top_k", body={**code, "top_k": 10**12})
    server.refuses(400, "repeat_last_n", body={**code, "repeat_last_n": 2**31 - 1})
    server.refuses(400, "max_tokens", body={**code, "max_tokens": -5})
    server.refuses(400, "at most 2 answers at once (--parallel)", body={**code, "n": 3})
    server.refuses(400, "id_slot", body={**code, "id_slot": 2})
    server.refuses(400, "empty text", body={**code, "stop": ""})
    server.refuses(400, "lora", body={**code, "lora": [{"id": 0, "scale": 1}]})
    server.refuses(400, "grammar", body={**code, "grammar": "garbage ::="})
    server.refuses(400, "ways open at once", body={**code, "grammar": "root ::= " + '("a"|"b"|"") ' * 200})
    server.refuses(400, "at most 1048576 bytes", path="/tokenize", body={"content": "x" * 2_000_000})
    server.refuses(400, path="/detokenize", body={"tokens": [10**9]})
    error = server.refuses(400, "2003 tokens", "1024 tokens", body={**code, "prompt": [5] * 2003})
    assert error["type"] == "exceed_context_size_error" and (error["n_prompt_tokens"], error["n_ctx"]) == (2003, 1024), error
    server.refuses(400, "context of 1024", body={**code, "prompt": "x" * 10_000_000})
    server.refuses(415, path=CHAT, body=b"--x--", Content_Type="multipart/form-data; boundary=x")
    assert len(server.post(TEXT, **code, n=2)["choices"]) == 2
    for harmless in ({"id_slot": 1}, {"model": "other"}, {"grammar": "root ::= [a-z]*"}, {"temperature": 1e-38, "top_k": 0},
                     {"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
                     {"logit_bias": [[i, False] for i in range(1000)]}, {"user": "me", "seed": 5, "logprobs": None}):
        server.post(TEXT, **{**code, **harmless})
    server.lives()


def test_paths_and_methods(case):
    server = serve(case, "--no-page")
    server.refuses(404, "no /v1/embeddings here; there is GET /health", "POST /v1/chat/completions", path="/v1/embeddings", body={})
    server.refuses(404, method="GET", path="/")
    server.refuses(405, "asked with POST, not GET", method="GET", path=CHAT)
    server.refuses(405, method="PUT", path=CHAT, body={})
    server.refuses(405, method="NONSENSE", path=CHAT)
    assert server.ask("HEAD", "/health")[0] == 200
    assert "(page)" not in server.said


def raw(server, *parts, pause=0.0):
    """What comes back for these bytes until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except OSError:
            pass  # it has closed already
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                answer += piece
        return answer


def test_large_and_slow_requests(case):
    server = serve(case, "--max-body", "1M", "--timeout", "1")
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    start = time.monotonic()
    answer = raw(server, head + b"Content-Length: 100000000\r\n\r\n", *[b"x" * 1_000_000] * 100)
    assert answer.startswith(b"HTTP/1.1 413") and b"1000000 bytes, this one has 100000000 (--max-body)" in answer, answer
    chunk = b"%x\r\n" % 500_000 + b"x" * 500_000 + b"\r\n"
    answer = raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 5)
    assert answer.startswith(b"HTTP/1.1 413") and b"too large" in answer, answer
    for parts in ([b"POST /v1/com"], [head + b"Content-Length: 50\r\n\r\n{"], [b"x"] * 30):
        raw(server, *parts, pause=0.1)  # it must close by itself
    assert time.monotonic() - start < 15
    server.lives()


# ---------------------------------------------------------------------------------------------------- who is refused


@rows({"flag": (["--api-key", "first", "--api-key", "sesame"], {}), "file": (["--api-key-file", "keys"], {}),
       "environment": ([], {"MOERGE_API_KEY": "sesame"})})
def test_keys(case, flags, variables):
    case.write("keys", "first\r\n\nsesame\n")
    server = serve(case, "-v", *flags, env=variables)
    body = {"prompt": "x", "max_tokens": 1}
    server.refuses(401, "wants a key", body=body)
    server.refuses(401, "not a key of this server", body=body, Authorization="Bearer sesam")
    server.refuses(401, method="GET", path="/v1/moerge")
    assert server.ask("POST", TEXT, body, Authorization="Bearer sesame")[0] == 200
    assert server.ask("POST", TEXT, body, X_Api_Key="sesame")[0] == 200
    assert server.ask("GET", "/health")[0] == 200 and server.ask("GET", "/")[0] == 200
    assert server.end() == 0
    log = case.path("stderr-0").read_text()
    assert "POST /v1/completions 401" in log and "sesam" not in log, log


@rows({"empty flag": (["--api-key", ""], "--api-key: the key is empty"), "empty file": (["--api-key-file", "keys"], "holds no key"),
       "spaces": (["--api-key", "a b"], "no spaces"), "unknown host": (["--host", "no.such.host.invalid"], "no such name"),
       "foreign address": (["--host", "192.0.2.1"], "no address of this computer"), "body": (["--max-body", "x"], "--max-body")})
def test_wrong_flags(case, flags, sentence):
    case.write("keys", "\n\n")
    result = case.run("serve", "model.gguf", "--port", "0", *flags)
    assert result.code in (1, 2) and not result.stdout, result
    result.says("moerge: ", sentence)


def test_port_in_use(case):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        case.run("serve", "model.gguf", "--port", port).exits(1).says(f"cannot listen at 127.0.0.1, port {port}: ",
                                                                     "--port 0 lets the system choose")


def test_pages_of_other_sites(case):
    server = serve(case, "--cors-origin", "https://good.example")
    body = {"prompt": "x", "max_tokens": 1}
    server.refuses(403, "Host", method="GET", path="/v1/models", Host="evil.example")
    server.refuses(403, "Host", body=body, Host=f"localhost.evil.example:{server.port}")
    for host in ("localhost", f"localhost:{server.port}", "127.0.0.1", f"[::1]:{server.port}"):
        assert server.ask("GET", "/v1/models", Host=host)[0] == 200, host
    server.refuses(403, "--cors-origin", body=body, Origin="https://evil.example")
    server.refuses(403, body=body, Origin="null")
    assert server.ask("POST", TEXT, body, Origin=f"http://127.0.0.1:{server.port}")[0] == 200
    status, headers, _ = server.ask("POST", TEXT, body, Origin="https://good.example")
    assert status == 200 and headers["Access-Control-Allow-Origin"] == "https://good.example"
    status, headers, _ = server.ask("OPTIONS", TEXT, None, Origin="https://good.example")
    assert status == 204 and "Authorization" in headers["Access-Control-Allow-Headers"]
    assert server.ask("OPTIONS", TEXT, None, Origin="https://evil.example")[0] == 403
    assert server.ask("GET", "/v1/models", Origin="https://evil.example")[1]["Access-Control-Allow-Origin"] is None


def test_networks_without_a_key(case):
    server = serve(case, "--host", "0.0.0.0")
    assert "warning: everybody who can reach this computer" in case.path("stderr-0").read_text()
    assert server.ask("GET", "/v1/models", Host="some.name.example")[0] == 200


# --------------------------------------------------------------------------------------------------------------- its end


def test_routing_with_a_stream_that_is_null(case):
    answer = serve(case).post(TEXT, prompt=CODE, max_tokens=3, stream=None, routing=True)
    assert len(answer["moerge"]["routing"]) in (2, 3), answer


def test_patterns_that_open_many_ways(case):
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(" + "a?" * 40 + ")$"}}}
    serve(case).refuses(400, 'a "pattern" should have at most 16 of', body={"prompt": CODE, "max_tokens": 3, "json_schema": schema})


def test_flags_of_parts_that_are_not_there(case):
    case.run("serve", "model.gguf", "--", "--api-key", "secret").exits(2).says("--api-key is none of the flags that go to llama.cpp")


@rows({"SIGINT": (signal.SIGINT, False), "SIGTERM": (signal.SIGTERM, False), "with routing": (signal.SIGINT, True)})
def test_the_end(case, name, routing):
    server = serve(case)
    with contextlib.closing(server.connect()) as connection:
        body = json.dumps({"prompt": CODE, "max_tokens": 1000, "ignore_eos": True, "stream": True, "grammar": "root ::= [a-z ]+", "routing": routing})
        connection.request("POST", TEXT, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        first = answer.read(40)
        start = time.monotonic()
        server.process.send_signal(name)
        rest = answer.read().decode()
        assert server.process.wait(10) == 0 and time.monotonic() - start < 6
    assert first.startswith(b"data: ") and ("shutting down" in rest or "[DONE]" in rest), rest[-300:]
    again = serve(case, port=server.port)  # the port is free
    again.lives()


def test_a_model_that_is_none(case):
    case.write("model.gguf", b"GGUF" + b"\0" * 100)
    result = case.run("serve", "model.gguf", "--port", "0")
    assert result.code in (1, 2), result
    result.says("moerge: ", "model.gguf")
    assert not result.stdout
