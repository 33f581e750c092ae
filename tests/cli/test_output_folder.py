"""OUT appears whole or not at all: what exists already, what is in the way, and what happens when a run dies."""
import fcntl, os, signal

from harness import Skipped, rows
from tiny_models import tiny_model

# ---------------------------------------------------------------------------------------------------- what exists already


def old_output(case, name="out"):
    """A model that an earlier run left in OUT, with a file of the user's beside it."""
    case.write(f"{name}/config.json", "{}")
    case.write(f"{name}/mine.txt", "mine")


def test_folder_that_is_not_empty(case):
    case.write("out/mine.txt", "mine")
    case.refused(2, "out exists and is not empty: choose another folder, or replace it with --overwrite")


def test_empty_folder_is_taken(case):
    case.path("out").mkdir()
    case.built()


def test_old_output_is_not_replaced_without_overwrite(case):
    old_output(case)
    case.refused(2, "out exists and is not empty")


def test_overwrite_replaces_the_whole_old_output(case):
    old_output(case)
    out = case.built("--overwrite")
    assert "mine.txt" not in out.files() and "model.safetensors" in out.files()


def test_overwrite_of_nothing(case):
    case.built("--overwrite")


def test_overwrite_refuses_a_folder_without_a_model(case):
    case.write("out/photos.zip", "mine")
    case.refused(2, "out holds no model (no config.json), so --overwrite does not replace it: choose another folder",
                 flags=["--overwrite"])


@rows({"": ([],), "--overwrite": (["--overwrite"],), "--dry-run": (["--dry-run"],)})
def test_out_is_a_file(case, flags):
    case.write("out", "mine")
    case.refused(2, "out exists and is not a folder", flags=flags)


@rows({"/": ("/",), "//": ("//",), "/.": ("/.",)})
def test_out_is_the_root(case, out):
    case.refused(2, flags=[], out=out)


def test_out_is_where_we_are(case):
    case.refused(2, ". exists and is not empty", out=".")


def test_dry_run_refuses_what_a_real_run_refuses(case):
    old_output(case)
    case.refused(2, "out exists and is not empty", flags=["--dry-run"])


def test_models_are_not_even_opened_when_out_is_refused(case):
    old_output(case)
    case.write("moe.yaml", "base_model: nosuch\n")
    case.refused(2, "out exists and is not empty")


@rows({"relative": ("a/b/c",), "with a slash": ("a/b/c/",), "through another": ("x/../a/b/c",)})
def test_parents_are_created(case, out):
    case.moe(out=out).exits(0)
    assert case.path("a/b/c/config.json").exists()
    assert [path.name for path in case.path("a/b").iterdir()] == ["c"]


def test_absolute_out(case):
    case.built(out=str(case.folder / "elsewhere"))


def test_link_to_an_empty_folder(case):
    case.path("real").mkdir()
    os.symlink("real", case.path("out"))
    case.moe().exits(0)
    assert case.path("out").is_symlink() and case.path("real/config.json").exists()


def test_link_to_an_old_output(case):
    old_output(case, "real")
    os.symlink("real", case.path("out"))
    out = case.built("--overwrite")
    assert case.path("out").is_symlink() and "mine.txt" not in out.files()


def test_model_card_is_called_like_the_folder(case):
    case.moe(out="deep/my-model/").exits(0)
    assert "\n# my-model\n" in case.path("deep/my-model/README.md").read_text()


# -------------------------------------------------------------------------------------------------- models and OUT


@rows({"base": ("base",), "expert": ("two",), "absolute": ("{work}/one",), "through another": ("base/../one",),
       "through a link": ("link",)})
def test_out_is_a_model_of_the_mixture(case, out):
    case.fill_in()
    os.symlink("two", case.path("link"))
    case.refused(2, "lie in one another: choose another output folder", flags=["--overwrite"], out=out.format(work=case.work))


def test_out_in_a_model(case):
    case.refused(2, 'the output base/out and the model "base" lie in one another', out="base/out")


def test_model_in_out(case):
    case.models("out/models/base", "out/models/one", "out/models/two")
    case.write("out/config.json", "{}")
    case.yaml(text="base_model: out/models/base\ngate_mode: random\nexperts:\n"
                   "  - source_model: out/models/one\n  - source_model: out/models/two\n")
    case.refused(2, "lie in one another", flags=["--overwrite"])
    case.refused(2, "lie in one another", flags=["--overwrite", "--dry-run"])


def test_out_beside_a_model_with_a_longer_name(case):
    case.built(out="base2")


# -------------------------------------------------------------------------------------------------- what is in the way


def test_parent_is_a_file(case):
    case.write("file", "mine")
    case.refused(1, f"cannot create {case.path('file')}/out: {case.path('file')} is not a folder", out="file/out")


def test_partial_folder_is_a_file(case):
    case.partial().write_text("mine")
    case.refused(1, f"cannot open {case.partial()}: Not a directory")


def test_partial_folder_is_a_link(case):
    """Whoever can write beside OUT must not make us empty a folder elsewhere."""
    case.write("elsewhere/mine.txt", "mine")
    os.symlink("elsewhere", case.partial())
    case.refused(1, f"cannot open {case.partial()}: ")


def test_another_run_is_writing_there(case):
    case.partial().mkdir()
    (case.partial() / "model.safetensors").write_text("theirs")
    lock = os.open(case.partial(), os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    case.refused(1, f"another moerge is writing {case.path('out')} at this moment")
    os.close(lock)
    case.built()


def test_remains_of_a_killed_run_are_removed(case):
    (case.partial() / "sub").mkdir(parents=True)
    (case.partial() / "sub/file").write_text("old")
    (case.partial() / "model-00007-of-00009.safetensors").write_text("old")
    assert not [name for name in case.built().files() if name in ("sub", "model-00007-of-00009.safetensors")]


def test_folder_without_the_right_to_write(case):
    if os.geteuid() == 0:
        raise Skipped("root may write everywhere")
    case.path("locked").mkdir(mode=0o500)
    case.refused(1, "cannot create ", "Permission denied", out="locked/out")


def test_model_without_the_right_to_read(case):
    if os.geteuid() == 0:
        raise Skipped("root may read everything")
    case.fill_in()
    os.chmod(case.path("one/model.safetensors"), 0)
    case.refused(1, f"cannot open {case.path('one')}/model.safetensors: Permission denied")


def test_not_enough_space(case):
    """Found out before anything is written: 64 MB are kept for the small files."""
    case.fill_in()
    disk = case.tmpfs("disk", "4m")
    case.refused(1, f"not enough space for disk/out: 67.2 MB needed, 4.2 MB free", out="disk/out")
    case.refused(1, "not enough space", out="disk/new/folders/out", flags=["--dry-run"])
    assert not list(disk.iterdir())


def test_out_on_another_file_system_than_the_models(case):
    case.fill_in()
    case.tmpfs("disk", "100m")
    here = case.built(out="here").content()
    there = case.built(out="disk/here").content()
    assert there == here


# -------------------------------------------------------------------------------------------------------- failing runs


def missing_model(case):
    case.yaml(text="base_model: nosuch\ngate_mode: random\nexperts: [{source_model: one}, {source_model: two}]\n")


def failing_forward_pass(case):
    base = tiny_model("base")
    tensor = base.tensors["model.layers.0.mlp.down_proj.weight"]
    tensor.data = b"\xff\x7f" * (len(tensor.data) // 2)  # NaN
    case.model("base", base)
    case.yaml("hidden")


FAILURES = {
    "a missing model": (missing_model, 2, 'model "nosuch"', {}),
    "a forward pass that fails": (failing_forward_pass, 1, "what layer 0 computes", {}),
    "a disk that refuses": (lambda case: case.yaml("random"), 1, "File too large", {"limit": 16}),
}


@rows(FAILURES)
def test_failing_run_leaves_nothing(case, prepare, code, sentence, how):
    case.fill_in()
    prepare(case)
    case.refused(code, sentence, **how)


@rows(FAILURES)
def test_failing_run_leaves_the_old_output_as_it_was(case, prepare, code, sentence, how):
    case.fill_in()
    old_output(case)
    prepare(case)
    case.refused(code, sentence, flags=["--overwrite"], **how)
    assert case.path("out/mine.txt").read_text() == "mine"


def test_small_file_that_cannot_be_written(case):
    """The weights fit under the limit, the tokenizer does not."""
    base = tiny_model("base")
    base.files["chat_template.jinja"] = b"x" * 200_000
    case.model("base", base)
    case.moe(limit=300).exits(1).says(f"what is finished stays in {case.partial()}: the same command goes on from there",
                                      f"cannot write {case.partial()}/chat_template.jinja: File too large")
    assert not case.path("out").exists() and case.partial().exists()
    case.moe().exits(0).says("continues what an earlier run left: ")
    assert not case.partial().exists()


# ------------------------------------------------------------------------------------------------------- interrupted runs


@rows({"SIGTERM": (signal.SIGTERM,), "SIGINT": (signal.SIGINT,)})
def test_interrupted_run_leaves_what_the_next_goes_on_with(case, number):
    case.slow_models()
    run = case.start_slow()
    run.send_signal(number)
    _, stderr = run.communicate(timeout=60)
    assert run.returncode == 130, f"exit code {run.returncode}: {stderr.decode()}"
    assert stderr.decode().endswith("moerge: interrupted\n"), stderr.decode()
    assert not case.path("out").exists()
    assert case.partial().exists() == ("the same command goes on from there" in stderr.decode())
    case.built()
    assert not case.partial().exists()


def test_killed_run_leaves_no_output_and_the_next_run_tidies_up(case):
    case.slow_models()
    run = case.start_slow()
    run.kill()
    run.communicate(timeout=60)
    assert not case.path("out").exists() and case.partial().exists()
    case.built()


def test_killed_run_leaves_the_old_output_as_it_was(case):
    case.slow_models()
    old_output(case)
    run = case.start_slow("--overwrite")
    run.kill()
    run.communicate(timeout=60)
    assert sorted(path.name for path in case.path("out").iterdir()) == ["config.json", "mine.txt"]
    case.built("--overwrite")


def test_two_runs_for_one_output_at_once(case):
    case.slow_models()
    run = case.start_slow()
    case.moe().exits(1).says("another moerge is writing")
    run.terminate()
    run.communicate(timeout=60)
    case.built()
