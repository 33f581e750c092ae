"""Models that the Hub has and this machine has not: looked at before anything large comes, then fetched, whole or in parts."""
import contextlib, json, signal, subprocess, sys, time
from pathlib import Path

from harness import rows
from tiny_gguf import tiny_gguf
from tiny_mixtures import tiny_mixture
from tiny_models import random_tensor, safetensors_files, tiny_model, tokenizer
from tiny_torch import pytorch_files

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))

import fakehub

LARGE = {"hidden_size": 128, "intermediate_size": 512, "vocab_size": 2048, "num_hidden_layers": 3}  # some MB, headers are kB

YAML = """\
base_model: tester/base
gate_mode: {gate_mode}
experts:
  - source_model: tester/one
    positive_prompts: ["def f(x):"]
  - source_model: tester/two{two}
    positive_prompts: ["prove that"]
"""


@contextlib.contextmanager
def hub_with(case, models):
    """A Hub that has these models as tester/NAME; `case` runs against it."""
    with fakehub.start(case.folder / "hub") as hub:
        for name, model in models.items():
            model.write(case.folder / "seeds" / name, shards=2 if name == "two" else 1)
            hub.seed(f"tester/{name}", case.folder / "seeds" / name)
        case.uses(hub, MOERGE_CACHE=str(case.folder / "moerge"))
        yield hub


def large_models(**two):
    return {name: tiny_model(name, **(LARGE | (two if name == "two" else {}))) for name in ("base", "one", "two")}


def weights_sent(hub):
    """Bytes of large files that the Hub's store has sent."""
    return sum(it["sent"] for it in hub.log() if it["origin"] == "cdn" and it["method"] == "GET")


def cache(case):
    return case.folder / ".cache/huggingface/hub"


def expected(case, yaml):
    """What the same YAML makes of folders."""
    text = yaml.replace("@main", "")
    for name in ("base", "one", "two"):
        text = text.replace(f"tester/{name}", str(case.folder / "seeds" / name))
    case.yaml(text=text, file="local.yaml")
    return case.built(config="local.yaml", out="expected").tensors


@rows({"random": ("random",), "hidden": ("hidden",), "cheap embed": ("cheap_embed",), "router input": ("router_input",)})
def test_models_are_fetched_into_the_cache_once(case, gate_mode):
    yaml = YAML.format(gate_mode=gate_mode, two="@main")
    case.yaml(text=yaml)
    models = {name: tiny_model(name) for name in ("base", "one", "two")}
    with hub_with(case, models) as hub:
        out = case.built()
        out.result.says("fetches tester/base@main")
        assert out.tensors == expected(case, yaml)
        assert (cache(case) / "models--tester--two/refs/main").read_text() == hub.head("tester/two")
        assert not list((case.folder / "moerge").rglob("*.safetensors"))
        hub.clear()
        case.built("--overwrite")
        assert hub.log() == []
    case.environment["HF_HUB_OFFLINE"] = "1"
    case.built("--overwrite")


def test_what_does_not_fit_is_known_after_kilobytes(case):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    with hub_with(case, large_models(intermediate_size=256)) as hub:
        case.moe().exits(2).says("tester/two", "intermediate_size")
        total = sum(file.stat().st_size for file in (case.folder / "seeds").rglob("*.safetensors"))
        assert weights_sent(hub) < 300_000 < total / 10, (weights_sent(hub), total)
        assert not case.path("out").exists()


def test_unsupported_family_is_known_after_kilobytes(case):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    models = large_models()
    models["two"].config["model_type"] = "gemma"
    models["two"].config["architectures"] = ["GemmaForCausalLM"]
    with hub_with(case, models) as hub:
        case.moe().exits(2).says("tester/two", "gemma")
        assert weights_sent(hub) < 300_000


def test_plan_and_dry_run_fetch_headers_only(case):
    case.yaml(text=YAML.format(gate_mode="hidden", two=""))
    with hub_with(case, large_models()) as hub:
        case.run("plan", "moe.yaml").exits(0).prints("parameters")
        case.moe("--dry-run").exits(0).prints("nothing was written")
        assert 0 < weights_sent(hub) < 600_000
        assert not list(cache(case).rglob("*.safetensors"))


def test_a_partial_snapshot_is_completed(case):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    with hub_with(case, {name: tiny_model(name) for name in ("base", "one", "two")}) as hub:
        case.built()
        for link in (cache(case) / "models--tester--two").rglob("*00002-of*"):
            link.unlink()
        hub.clear()
        case.built("--overwrite").result.says("tester/two")
        assert not any("tester/base" in it["path"] for it in hub.log())


def test_remote_fetches_what_is_used(case):
    yaml = YAML.format(gate_mode="hidden", two="")
    case.yaml(text=yaml)
    models = large_models()
    with hub_with(case, models) as hub:
        out = case.built("--remote")
        sent = weights_sent(hub)
        files = {name: sum(file.stat().st_size for file in (case.folder / "seeds" / name).rglob("*.safetensors"))
                 for name in models}
        ffn = sum(len(tensor.data) for key, tensor in models["one"].tensors.items() if ".mlp." in key)
        assert out.tensors == expected(case, yaml)
        # The base whole (or all but its last FFN), of the experts their FFNs; headers come in blocks of 64 kB.
        assert files["base"] * 0.7 + 2 * ffn <= sent <= files["base"] + 2 * ffn + 400_000, (sent, files, ffn)
        assert sent < 0.9 * sum(files.values())
        assert not list(cache(case).rglob("*.safetensors")) and not list((case.folder / "moerge").rglob("*.safetensors"))
        assert not [it for it in hub.log() if it["origin"] != "hub" and it["token"]]


@rows({"whole": ((),), "in parts": (("--remote",),)})
def test_a_model_with_a_leftover_of_an_adapter(case, flags):
    yaml = YAML.format(gate_mode="random", two="")
    case.yaml(text=yaml)
    models = large_models()
    models["one"].files["adapter_config.json"] = b"{}"
    with hub_with(case, models):
        assert case.built(*flags).tensors == expected(case, yaml)


def test_fetched_models_are_wanted_even_where_the_name_is_old(case):
    """A new commit on the Hub changes nothing as long as the cache has the old one whole."""
    yaml = YAML.format(gate_mode="random", two="")
    case.yaml(text=yaml)
    with hub_with(case, {name: tiny_model(name) for name in ("base", "one", "two")}) as hub:
        first = case.built().tensors
        tiny_model("other").write(case.folder / "seeds/one")
        new = hub.seed("tester/one", case.folder / "seeds/one")
        assert case.built("--overwrite").tensors == first
        case.yaml(text=yaml.replace("tester/one", f"tester/one@{new}"))
        assert case.built("--overwrite").tensors == expected(case, yaml)
        # A look at what is new (a plan) does not move the name.
        case.yaml(text=yaml)
        assert case.built("--overwrite").tensors == first


def test_a_plan_leaves_no_headers_and_takes_no_parts_away(case):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    with hub_with(case, large_models()) as hub:
        case.run("plan", "moe.yaml").exits(0)
        assert not list((case.folder / "moerge").rglob("*.safetensors"))
        case.run("pull", "tester/one", "--only", "ffn").exits(0)
        case.run("plan", "moe.yaml").exits(0)
        assert len(list((case.folder / "moerge").rglob("*.safetensors"))) == 1


@rows({"more than was asked for": ({"headers": {"Content-Range": "bytes 0-65535/1"}, "status": 206}, "another part"),
       "refused for ever": ({"status": 403}, "where the Hub sends us")})
def test_a_store_that_answers_wrongly(case, fault, sentence):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    with hub_with(case, large_models()) as hub:
        hub.fault(method="GET", path="/get/", origin="cdn", n=1000, **fault)
        case.moe("--remote").exits(1).says("tester/base", sentence)


def test_extract_of_what_is_no_mixture_fetches_nothing_large(case):
    with hub_with(case, {"base": tiny_model("base", **LARGE)}) as hub:
        case.run("extract", "tester/base", "out", "--expert", "0").exits(2).says("tester/base")
        assert weights_sent(hub) < 100_000


def test_ffns_fetched_in_advance(case):
    yaml = YAML.format(gate_mode="random", two="")
    case.yaml(text=yaml)
    models = large_models()
    with hub_with(case, models) as hub:
        folder = Path(case.run("pull", "tester/one", "--only", "ffn").exits(0).stdout.strip())
        ffn = sum(len(tensor.data) for key, tensor in models["one"].tensors.items() if ".mlp." in key)
        assert ffn < weights_sent(hub) < ffn + 200_000
        hub.clear()
        assert case.built("--remote").tensors == expected(case, yaml)
        assert not any("tester/one/resolve" in it["path"] for it in hub.log())
        assert (folder / "model.safetensors").exists()  # kept for the next build
        case.run("pull", "tester/one", "--only", "ffn", "--json").exits(2).says("--only")


def test_remote_goes_on_after_a_kill(case):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    models = large_models()
    with hub_with(case, models) as hub:
        hub.fault(method="GET", path="/get/", origin="cdn", n=1000, rate=2_000_000)
        command = case.command(["moe", "moe.yaml", "out", "--remote"])
        run = subprocess.Popen(command, cwd=case.work, env=case.variables(), stderr=subprocess.DEVNULL)
        case.started.append(run)
        end = time.monotonic() + 30
        journals = lambda: [line for file in (case.folder / "moerge").rglob(".*.ranges")
                            for line in file.read_text().splitlines()]
        while len(journals()) < 8 and time.monotonic() < end:
            assert run.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        run.wait()
        finished = journals()
        hub.clear()
        case.built("--remote")
        asked = {it["range"] for it in hub.log() if it["origin"] == "cdn"}
        assert not asked & {f"bytes={begin}-{int(end) - 1}" for begin, end in map(str.split, finished)}


def test_remote_says_when_the_server_gives_no_parts(case):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    with hub_with(case, large_models()) as hub:
        hub.fault(method="GET", path="/get/", origin="cdn", n=1000, ignore_range=True)
        case.moe("--remote").exits(2).says("does not give parts of files")


def test_remote_survives_an_expired_address(case):
    yaml = YAML.format(gate_mode="random", two="")
    case.yaml(text=yaml)
    with hub_with(case, large_models()) as hub:
        hub.fault(method="GET", path="/get/", origin="cdn", n=1, status=403)
        assert case.built("--remote").tensors == expected(case, yaml)


def test_pytorch_weights(case):
    yaml = YAML.format(gate_mode="random", two="")
    case.yaml(text=yaml)
    models = large_models()
    with hub_with(case, models) as hub:
        folder = case.folder / "seeds/one"
        (folder / "model.safetensors").unlink()
        for name, data in pytorch_files(models["one"].tensors, shards=2).items():
            if data is not None:
                (folder / name).write_bytes(data)
        hub.seed("tester/bin", folder)
        case.yaml(text=yaml.replace("tester/one", "tester/bin"))
        result = case.built("--remote")
        sent = weights_sent(hub)
        assert result.tensors == expected(case, yaml)
        hub.clear()
        assert case.built("--overwrite").tensors == result.tensors
        assert sent < weights_sent(hub)


def test_weights_of_an_older_pytorch(case):
    with hub_with(case, {"base": tiny_model("base")}) as hub:
        folder = case.folder / "seeds/base"
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + bytes(200_000))
        hub.seed("tester/old", folder)
        here = case.run("gguf", folder, "x", "--type", "f16")
        there = case.run("gguf", "tester/old", "x", "--type", "f16").exits(here.code)
        assert here.code in (1, 2) and here.stderr.split(": ")[-1] in there.stderr, (here.stderr, there.stderr)


def test_an_adapter_is_fetched_too(case):
    with hub_with(case, {name: tiny_model(name) for name in ("base", "one", "two")}) as hub:
        lora = case.folder / "seeds/lora"
        lora.mkdir()
        name = "base_model.model.model.layers.0.mlp.up_proj"
        files = safetensors_files({f"{name}.lora_A.weight": random_tensor("a", [2, 32], "F32"),
                                   f"{name}.lora_B.weight": random_tensor("b", [48, 2], "F32")})
        (lora / "adapter_model.safetensors").write_bytes(files["model.safetensors"])
        (lora / "adapter_config.json").write_text(json.dumps(
            {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["up_proj"]}))
        hub.seed("tester/lora", lora)
        yaml = YAML.format(gate_mode="random", two="")
        case.yaml(text=yaml.replace("tester/one", "tester/one+tester/lora"))
        case.yaml(text=yaml.replace("tester/one", "tester/one+" + str(lora)).replace("tester/", str(case.folder / "seeds") + "/"),
                  file="local.yaml")
        wanted = case.built(config="local.yaml", out="expected").tensors
        assert case.built("--remote").tensors == wanted
        assert case.built("--overwrite").tensors == wanted


def test_extract_and_gguf_fetch_parts(case):
    model = tiny_mixture("mix", experts=4, hidden_size=128, expert_ffn=512, vocab_size=1024)
    model.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
    with hub_with(case, {"mix": model}) as hub:
        case.run("extract", "tester/mix", "expert", "--expert", "1", "--remote").exits(0)
        size = (case.folder / "seeds/mix/model.safetensors").stat().st_size
        assert weights_sent(hub) < 0.7 * size, (weights_sent(hub), size)
        case.run("extract", case.folder / "seeds/mix", "local", "--expert", "1").exits(0)
        assert case.path("expert/model.safetensors").read_bytes() == case.path("local/model.safetensors").read_bytes()
        case.run("gguf", "tester/mix", "ggufs", "--remote", "--type", "q8_0").exits(0)
        case.run("gguf", case.folder / "seeds/mix", "local-ggufs", "--type", "q8_0").exits(0)
        assert case.path("ggufs/mix.Q8_0.gguf").read_bytes() == case.path("local-ggufs/mix.Q8_0.gguf").read_bytes()
        assert not list((case.folder / "moerge").rglob("*.safetensors"))
        assert not list(cache(case).rglob("*.safetensors"))


def test_a_repository_of_one_gguf(case):
    with hub_with(case, {}) as hub:
        folder = case.folder / "seeds/gguf"
        folder.mkdir(parents=True)
        (folder / "m.F16.gguf").write_bytes(tiny_gguf(tiny_model("one"), "f16").bytes())
        hub.seed("tester/m-GGUF", folder)
        yaml = "base_model: tester/m-GGUF\ngate_mode: random\nexperts:\n" + "  - source_model: tester/m-GGUF\n" * 2
        case.yaml(text=yaml)
        flag = "--i-understand-this-is-not-useful-without-training"
        case.moe(flag, "--remote").exits(0)
        first = case.path("out/model.safetensors").read_bytes()
        case.moe(flag, "--overwrite").exits(0)
        assert case.path("out/model.safetensors").read_bytes() == first
        (folder / "m.Q4_0.gguf").write_bytes(b"GGUF")
        hub.seed("tester/m-GGUF", folder)
        case.moe(flag, "--overwrite", config=case.yaml(text=yaml.replace("m-GGUF", "m-GGUF@main"))).exits(0)
        hub.seed("tester/several-GGUF", folder)
        case.run("gguf", "tester/several-GGUF", "x", "--type", "f16").exits(2).says("several GGUF files", "--include")


@rows({
    "no such repository": ("tester/nosuch", "there is no such model"),
    "a revision that is not there": ("tester/base@v9", "v9"),
    "no weights": ("tester/empty", "no weights that moerge reads"),
})
def test_refusals(case, reference, sentence):
    with hub_with(case, {"base": tiny_model("base")}) as hub:
        empty = case.folder / "seeds/empty"
        empty.mkdir()
        (empty / "config.json").write_text("{}")
        hub.seed("tester/empty", empty)
        case.environment["HF_TOKEN"] = "hf_test"
        case.yaml(text=f"base_model: {reference}\ngate_mode: random\nexperts:\n  - source_model: {reference}\n")
        case.moe("--i-understand-this-is-not-useful-without-training").exits(2).says(
            f'model "{reference}"', "not in the Hugging Face cache", sentence)


def test_offline_says_what_to_run(case):
    case.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    case.run("extract", "tester/base", "out", "--expert", "0").exits(2).says('fetch it with "moerge pull tester/base"')


def test_the_disk_has_to_hold_downloads_and_result(case):
    case.yaml(text=YAML.format(gate_mode="random", two=""))
    disk = case.tmpfs("disk", "5m")
    with hub_with(case, large_models()) as hub:
        case.environment |= {"HF_HUB_CACHE": str(disk / "hub")}
        case.moe(out="disk/out").exits(1).says("not enough space", "of the result on the same disk")
        assert weights_sent(hub) < 300_000
