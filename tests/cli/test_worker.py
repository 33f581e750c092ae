"""moerge worker, and --rpc: layers or experts of a model in another process on loopback."""
import contextlib, json, os, signal, socket, subprocess, threading

from tiny_mixtures import mixture_gguf, tiny_mixture


@contextlib.contextmanager
def worker(case, port=None):
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    process = subprocess.Popen([case.binary, "worker", "--port", str(port), "--threads", "1"], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, env=dict(os.environ, OMP_WAIT_POLICY="PASSIVE"))
    try:
        line = process.stderr.readline()
        assert line == f"moerge worker at 127.0.0.1:{port} on CPU; ctrl-C ends it\n", (line, process.poll())
        yield port, process
    finally:
        process.kill()
        process.communicate()


def answer(case, *words):
    told = json.loads(case.run("chat", "mix.gguf", "--plain", "--prompt", "def f(x):", "--predict", "12", "--temp", "0",
                               "--show-routing", "--json", "--quiet", *words).exits(0).stdout)
    return told["text"], [token["experts"] for token in told["routing"]["tokens"]]


def refused(case, sentence, *words):
    case.run("chat", "mix.gguf", "--prompt", "x", *words).exits(2).says("moerge: --rpc ", sentence)


def write_model(case):
    case.environment["ASAN_OPTIONS"] = "detect_leaks=0"  # llama.cpp keeps what it knows of a worker until the end
    mixture_gguf(tiny_mixture("mix", "mixtral"), "f16").write(case.path("mix.gguf"))


def test_the_answer_is_the_same_with_layers_elsewhere(case):
    write_model(case)
    alone = answer(case)
    assert alone[0] and alone[1]
    with worker(case) as (port, _):
        assert answer(case, "--rpc", f"127.0.0.1:{port}") == alone
        assert answer(case, "--rpc", f"127.0.0.1:{port}") == alone  # the worker takes one client after another
        with worker(case) as (second, _):
            assert answer(case, "--rpc", f"127.0.0.1:{port},127.0.0.1:{second}") == alone


def test_the_experts_alone_can_be_elsewhere(case):
    write_model(case)
    with worker(case) as (port, _):
        told = case.run("chat", "mix.gguf", "--plain", "--prompt", "def f(x):", "--predict", "12", "--temp", "0", "--json",
                        "--rpc", f"127.0.0.1:{port}", "--gpu-layers", "all", "--override-tensor",
                        f"ffn_.*_exps=RPC0[127.0.0.1:{port}],.*=CPU").exits(0)
        assert json.loads(told.stdout)["text"] == answer(case)[0]


def test_workers_that_cannot_be_reached(case):
    write_model(case)
    refused(case, "nowhere: HOST:PORT is expected, like 192.168.1.5:50052", "--rpc", "nowhere")
    refused(case, "127.0.0.1:70000: HOST:PORT is expected", "--rpc", "127.0.0.1:70000")
    case.run("chat", "mix.gguf", "--prompt", "x", "--rpc", "no-such-host.invalid:50052").exits(2).says("there is no such host")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused(case, "Connection refused; is `moerge worker` running there", "--rpc", f"127.0.0.1:{closed.getsockname()[1]}")


def test_something_else_answers_at_the_port(case):
    write_model(case)
    with socket.create_server(("127.0.0.1", 0)) as web:
        def answer_in_http():
            with contextlib.suppress(OSError):
                while True:
                    client, _ = web.accept()
                    client.recv(100)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    client.close()
        threading.Thread(target=answer_in_http, daemon=True).start()
        refused(case, "what answers there is no worker of this version", "--rpc", f"127.0.0.1:{web.getsockname()[1]}")


def test_a_port_in_use(case):
    with worker(case) as (port, _):
        case.run("worker", "--port", port).exits(1).says(f"cannot listen on 127.0.0.1:{port}: Address already in use; --port")


def test_garbage_does_not_end_a_worker(case):
    write_model(case)
    with worker(case) as (port, process):
        for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" * 64):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(garbage)
        assert answer(case, "--rpc", f"127.0.0.1:{port}") == answer(case)
        assert process.poll() is None


def test_ctrl_c_ends_it_at_once(case):
    with worker(case) as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT


def test_other_addresses_are_warned_of(case):
    case.run("worker", "--host", "no-such-host.invalid").exits(2).says(
        "whoever reaches no-such-host.invalid:50052 can use this machine", "there is no such host")
