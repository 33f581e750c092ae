#!/usr/bin/env python3
"""Opens the page of `moerge route --html` in a real browser and measures what it shows.

usage: check.py MOERGE_BINARY [--keep FOLDER]

Needs Chromium (apt-get install chromium); without one it says so and exits 0. Not part of `make test`. For a small and a wide
mixture, narrow and wide windows, light and dark: nothing hangs over the side, no script runs and nothing is loaded, text can be
read (contrast of at least 4.5), hostile names and tokens are text. --keep leaves the pages and screenshots there to be looked at.
Prints what failed and at the end "N passed, M failed".
"""
import argparse, json, re, shutil, subprocess, sys, tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
sys.dont_write_bytecode = True

from devtools import find_browser
from tiny_mixtures import tiny_mixture

HOSTILE = "<script>document.title='ran'</script>"
TEXT = "def f(x): return x\n" + HOSTILE + "</div></section><img src=x onerror=\"document.title='ran'\">\u202eabc\u05d0\u4e2d\n" * 4

# Runs beside the page, not in it: the page is in a frame of this document.
PROBE = """<!doctype html><body style="margin:0"><iframe id="page" src="PAGE" style="border:0;width:WIDTHpx;height:900px"></iframe>
<script>
function luminance(c) { const f = x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); }
function parse(s) { const m = s.match(/[\\d.]+/g).map(Number); return m.length === 3 ? [...m, 1] : m; }
function over(top, below, a) { return below.map((b, i) => i < 3 ? top[i] * a + b * (1 - a) : 1); }
function contrast(a, b) { const [x, y] = [luminance(a), luminance(b)]; return (Math.max(x, y) + .05) / (Math.min(x, y) + .05); }
document.getElementById('page').onload = function () {
  const d = this.contentDocument, w = this.contentWindow, out = {};
  const style = (e, part) => w.getComputedStyle(e, part), page = parse(style(d.body).backgroundColor);
  out.background = page.slice(0, 3);
  out.overhang = d.documentElement.scrollWidth - d.documentElement.clientWidth;
  out.scripts = d.scripts.length; out.images = d.images.length; out.ran = d.title === 'ran';
  out.loaded = w.performance.getEntriesByType('resource').length;
  out.tokens = d.querySelectorAll('.tokens span').length;
  out.cells = d.querySelectorAll('rect.cell').length; out.titles = d.querySelectorAll('svg title').length;
  out.text = d.body.textContent;
  const seen = {};
  const note = (kind, value) => seen[kind] = Math.min(seen[kind] || 99, value);
  note('text', contrast(parse(style(d.body).color), page));
  for (const e of d.querySelectorAll('.soft')) note('soft', contrast(parse(style(e).color), page));
  for (const e of d.querySelectorAll('.findings li')) note('finding', contrast(parse(style(e).color), parse(style(e).backgroundColor)));
  for (const e of d.querySelectorAll('.tokens span')) {
    const c = parse(style(e, '::before').backgroundColor), box = parse(style(e.parentElement).backgroundColor);
    note('token', contrast(parse(style(e).color), over(c, box, parseFloat(style(e, '::before').opacity))));
  }
  for (const e of d.querySelectorAll('td.heat')) {
    const s = style(e, '::before');
    note('confusion', contrast(parse(style(e).color), over(parse(s.backgroundColor), page, parseFloat(s.opacity))));
  }
  for (const e of d.querySelectorAll('svg .value')) {
    let r = e.previousElementSibling; while (!r.matches('.cell')) r = r.previousElementSibling;
    note('cell', contrast(parse(style(e).fill), over(parse(style(r).fill), page, parseFloat(style(r).fillOpacity))));
  }
  out.contrast = seen;
  document.body.setAttribute('data-result', JSON.stringify(out));
};
</script>"""


def browse(browser, folder, page, width, dark, *more):
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files",
               f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--virtual-time-budget=20000",
               f"--blink-settings=preferredColorScheme={0 if dark else 1}", *more, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def measure(browser, folder, page, width, dark):
    probe = folder / "probe.html"
    probe.write_text(PROBE.replace("PAGE", page.name).replace("WIDTH", str(width)))
    result = re.search(r'data-result="([^"]*)"', browse(browser, folder, probe, max(width, 800), dark, "--dump-dom"))
    assert result, "the page did not load"
    text = result[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&nbsp;", " ").replace("&amp;", "&")
    return json.loads(text)


def judge(found, layers, experts, dark):
    steps = 9  # of the legend
    assert found["cells"] == layers * experts + steps, found["cells"]
    assert found["titles"] == layers * experts + 1, found["titles"]
    assert found["scripts"] == found["images"] == found["loaded"] == 0 and not found["ran"], found
    assert found["tokens"] > 100 and found["overhang"] <= 0, (found["tokens"], found["overhang"])
    assert HOSTILE in found["text"].replace("\u21b5", ""), "the hostile text is not there as text"
    assert (sum(found["background"]) < 200) == dark, found["background"]
    poor = {kind: round(value, 2) for kind, value in found["contrast"].items() if value < 4.5}
    assert not poor, f"hard to read: {poor}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="MOERGE_BINARY", type=Path)
    parser.add_argument("--keep", type=Path)
    a = parser.parse_args()
    browser = find_browser()
    if not browser:
        print("skipped: no Chromium on this machine (apt-get install chromium)\n0 passed, 0 failed")
        return
    passed = failed = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = a.keep.resolve() if a.keep else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "text.txt").write_text(TEXT)
        for name, layers, experts in (("small", 2, 4), ("wide", 60, 64)):
            tiny_mixture(name, "qwen3_moe", experts=experts, num_hidden_layers=layers, expert_ffn=4).write(folder / name)
            page = folder / f"{name}.html"
            subprocess.run([a.binary.resolve(), "route", name, "--text", "1=text.txt", "--prompt", f"2={HOSTILE}", "--html", page,
                            "--overwrite", "--quiet"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for dark in (False, True):
                for width in (400, 1200):
                    what = f"{name}, {'dark' if dark else 'light'}, {width} pixels"
                    try:
                        judge(measure(browser, folder, page, width, dark), layers, experts, dark)
                        passed += 1
                    except AssertionError as error:
                        failed += 1
                        print(f"FAIL {what}\n{error}")
                if a.keep:
                    picture = folder / f"{name}-{'dark' if dark else 'light'}.png"
                    browse(browser, folder, page, 1200, dark, f"--screenshot={picture}", "--window-size=1200,2400")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
