"""The scripts of docs/parts.md, as they stand there: with sbatch, kubectl and ssh that start processes on this machine."""
import json, os, re, subprocess
from pathlib import Path

from harness import TIMEOUT_S

DOCS = Path(__file__).resolve().parents[2] / "docs" / "parts.md"

# The tiny models would fit into one file of 2 GB.
MOERGE = """#!/bin/bash
exec "{binary}" "${{@/#2B/8k}}"
"""

SRUN = '#!/bin/sh\nexec "$@"\n'

# Runs the tasks of an array at once, and what depends on them afterwards.
SBATCH = r"""#!/bin/bash
while [ $# -gt 0 ]; do
  case $1 in
    --parsable) ;;
    --dependency=afterok:*) after=${1#*:} ;;
    --job-name=*) ;;
    --wrap) wrap=$2; shift ;;
    -*) echo "sbatch: unknown $1" >&2; exit 1 ;;
    *) script=$1 ;;
  esac
  shift
done
if [ -n "$after" ]; then test "$(cat succeeded)" = "$after" || exit 1; fi
if [ -n "$wrap" ]; then exec sh -c "$wrap" >&2; fi
range=$(sed -n 's/^#SBATCH --array=//p' "$script")
export SLURM_CPUS_PER_TASK=$(sed -n 's/^#SBATCH --cpus-per-task=//p' "$script")
for task in $(seq "${range%-*}" "${range#*-}"); do
  SLURM_ARRAY_TASK_ID=$task bash "$script" >&2 & jobs="$jobs $!"
done
for job in $jobs; do wait "$job" || exit 1; done
echo 4711 > succeeded
echo 4711
"""

SSH = r"""#!/bin/sh
case $1 in node[1-4]) exec sh -c "$2" ;; esac
echo "ssh: no host $1" >&2; exit 255
"""

KUBECTL = r"""#!/bin/bash
case "$*" in
  "apply -f "*.yaml) echo "$3" >> applied; exec python3 -B "{runner}" "$3" ;;
  "wait --for=condition=complete --timeout=24h job/merge-parts") grep -qx merge-parts succeeded ;;
  *) echo "kubectl: unknown $*" >&2; exit 1 ;;
esac
"""


# ---------------------------------------------------------------------------------------------------------------- helpers


def blocks(section, language):
    """The code blocks of a section."""
    text = DOCS.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def put_on_path(case, **programs):
    """These programs, and a moerge."""
    folder = case.folder / "bin"
    folder.mkdir()
    for name, text in {"moerge": MOERGE.format(binary=case.binary), **programs}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    case.environment["PATH"] = f"{folder}:{os.environ['PATH']}"


def prepared(case, **programs):
    case.fill_in()
    os.rename(case.path("moe.yaml"), case.path("config.yaml"))
    case.yaml("hidden", file="config.yaml")
    put_on_path(case, **programs)
    alone = case.built("--out-shard-size", "8k", config="config.yaml", out="alone/merge").content()
    return alone


def run_script(case, text):
    done = subprocess.run(["bash", "-e", "-c", text], cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr.decode()}{done.stdout.decode()}"
    return done.stderr.decode()


def merged(case):
    assert not case.partial("merge").exists()
    return {path.name: path.read_bytes() for path in case.path("merge").iterdir()}


def parse_yaml(text):
    """Of YAML what the page uses: maps and lists by indentation, and flow collections that are JSON too."""
    lines = [(len(line) - len(line.lstrip()), line.strip()) for line in text.splitlines() if line.strip()]

    def value(text):
        try:
            return json.loads(text)
        except ValueError:
            return text

    def block(at):
        indent, first = lines[at]
        if first.startswith("- "):
            items = []
            while at < len(lines) and lines[at][0] == indent and lines[at][1].startswith("- "):
                lines[at] = (indent + 2, lines[at][1][2:])
                item, at = block(at)
                items.append(item)
            return items, at
        entries = {}
        while at < len(lines) and lines[at][0] == indent and not lines[at][1].startswith("- "):
            key, _, rest = lines[at][1].partition(":")
            if rest.strip():
                entries[key], at = value(rest.strip()), at + 1
            else:
                assert lines[at + 1][0] > indent, f"{key} has no value"
                entries[key], at = block(at + 1)
        return entries, at

    parsed, end = block(0)
    assert end == len(lines), f"cannot read {lines[end]}"
    return parsed


def run_job(file):
    """What a cluster makes of a Job: every index at once, each in the volume's folder; a pod that died is started again."""
    job = parse_yaml(Path(file).read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    container, = pod["containers"]
    mount, = container["volumeMounts"]
    volume, = pod["volumes"]
    assert mount["name"] == volume["name"] and mount["mountPath"] == container["workingDir"]
    assert pod["restartPolicy"] in ("OnFailure", "Never")
    indexed = spec.get("completionMode") == "Indexed"

    def start(index):
        numbers = {"JOB_COMPLETION_INDEX": str(index)} if indexed else {}
        return subprocess.Popen(container["command"], env={**os.environ, **numbers})

    pods = [start(index) for index in range(spec.get("completions", 1))]
    if indexed:  # a node is lost
        pods[2].kill()
    for index, one in enumerate(pods):
        tries = 0
        while one.wait() != 0:
            tries += 1
            assert tries <= spec["backoffLimit"], f"pod {index} failed"
            one = start(index)
    with open("succeeded", "a") as succeeded:
        succeeded.write(job["metadata"]["name"] + "\n")


# ------------------------------------------------------------------------------------------------------------------ tests


def test_slurm(case):
    script, submit = blocks("Slurm", "bash")
    alone = prepared(case, sbatch=SBATCH, srun=SRUN)
    case.write("parts.sbatch", script)
    log = run_script(case, submit)
    for number in range(1, 9):
        assert f"part {number} of 8 is finished" in log, log
    assert merged(case) == alone


def test_kubernetes(case):
    parts, join = blocks("Kubernetes", "yaml")
    submit, = blocks("Kubernetes", "bash")
    alone = prepared(case, kubectl=KUBECTL.replace("{runner}", str(Path(__file__).resolve())))
    case.write("parts.yaml", parts)
    case.write("join.yaml", join)
    log = run_script(case, submit)
    for number in range(1, 9):
        assert f"part {number} of 8 is finished" in log, log
    assert merged(case) == alone


def test_ssh(case):
    script, = blocks("Other ways to start eight commands", "bash")
    alone = prepared(case, ssh=SSH)
    run_script(case, script)
    assert merged(case) == alone


if __name__ == "__main__":  # the stub of kubectl
    import sys
    run_job(sys.argv[1])
