"""The page in a real browser: it sorts and filters, its cells are those of summary.json, and its console is silent."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.test_terminal import SEVEN, THIRTY, records
from tokenlab.cli import main
from tokenlab.metrics.summary import summarise
from tokenlab.report.gallery import draw_gallery, read_gallery
from tokenlab.report.html import write_page
from tokenlab.report.overlay import Pictures
from tokenlab.report.sidecar import AnswerTokens, MediumTokens

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here; .ci/run installs Debian's")
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
CONSOLE = re.compile(r'CONSOLE:\d+\] "(.*)"')

PROBE = """<script>
const click = name => [...document.querySelectorAll("#arms th button")].find(b => b.textContent === name).click();
const column = name => [...document.querySelectorAll("#arms th")].findIndex(each => each.textContent === name);
const shown = name => [...document.querySelectorAll("#arms tbody tr")].filter(row => !row.hidden)
  .map(row => row.cells[column(name)].textContent);
const found = {cells: {}};
for (const {dataset} of document.querySelectorAll("td[data-path]")) found.cells[dataset.path] = dataset.value ?? null;
click("ms a query"); found.descending = shown("ms a query");
click("ms a query"); found.ascending = shown("ms a query");
const filter = document.getElementById("filter");
filter.value = "TEXT"; filter.dispatchEvent(new Event("input")); found.filtered = shown("arm");
filter.value = ""; filter.dispatchEvent(new Event("input")); found.unfiltered = shown("arm").length;
const press = key => { document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  return document.activeElement.id; };
found.keys = [press("j"), press("j"), press("k")];
found.loaded = [...document.images].map(each => { each.loading = "eager"; return each.src.slice(0, 22); });
found.outside = performance.getEntriesByType("resource").filter(each => !each.name.startsWith("data:")).length;
document.body.innerHTML = "<pre>" + btoa(unescape(encodeURIComponent(JSON.stringify(found)))) + "</pre>";
</script>"""


def browse(page: Path, probe: str, profile: Path) -> dict:
    """Runs a script at the end of a copy of the page, and returns what it found; the console must be silent."""
    import base64

    copy = page.with_name("probed.html")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{probe}</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *QUIET]
    options = [f"--user-data-dir={profile}", "--virtual-time-budget=5000", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, *options, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert CONSOLE.findall(done.stderr) == []
    return json.loads(base64.b64decode(re.search("<pre>(.*)</pre>", done.stdout)[1]).decode())


def tokens(uid: str, arm: str) -> AnswerTokens:
    fates = "#" * 8 if arm == "full" else "#+-.####"
    return AnswerTokens(uid, arm, (1, 2), 20, (MediumTokens((0, 5), ((2, 2), (2, 2)), fates),))


def noise(_: str) -> list[Pictures]:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    return [Pictures(list(pixels), (0, 5))]


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder as a run leaves it, without a model; names that a page must escape."""
    arms = [*SEVEN, "<b>bold</b> & text"]
    rows = [replace(each, question='what is "this" <i>?') for each in records(arms, types=("color", "a/b~c"))]
    (tmp_path / "records.jsonl").write_text("".join(f"{each.to_json()}\n" for each in rows), encoding="utf-8")
    known = {(each.arm, each.uid): tokens(each.uid, each.arm) for each in rows if each.uid < "q3"}
    draw_gallery(tmp_path, rows, known, noise)
    return tmp_path


def at(pointer: str, tree: dict):
    for name in pointer.strip("/").split("/"):
        name = name.replace("~1", "/").replace("~0", "~")
        tree = tree[int(name)] if isinstance(tree, list) else tree.get(name) if tree is not None else None
    return tree


@BROWSER
def test_the_page_works_and_says_what_the_summary_says(run, tmp_path, capsys):
    assert main(["report", str(run), "--format", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert main(["report", str(run), "--format", "html"]) == 0
    found = browse(run / "report.html", PROBE, tmp_path / "profile")
    assert len(found["cells"]) > 8 * 20
    for pointer, value in found["cells"].items():
        expected = at(pointer, summary)
        assert value == (None if expected is None else expected if isinstance(expected, str) else repr(expected))
    times = [float(text.replace(",", "")) for text in found["descending"]]
    assert times == sorted(times, reverse=True) == [float(text.replace(",", "")) for text in found["ascending"]][::-1]
    assert found["filtered"] == ["<b>bold</b> & text", "text"] or found["filtered"] == ["text", "<b>bold</b> & text"]
    assert found["unfiltered"] == 8
    assert found["keys"] == ["q1", "q2", "q1"]
    assert found["loaded"]
    assert set(found["loaded"]) == {"data:image/jpeg;base64"}
    assert found["outside"] == 0


@BROWSER
def test_one_record_edited_moves_page_table_and_summary(run, tmp_path, capsys):
    def everywhere() -> tuple[str, float, str]:
        main(["report", str(run), "--format", "json"])
        summary = json.loads(capsys.readouterr().out)["arms"][0]["accuracy"]["mean"]
        main(["report", str(run), "--format", "md"])
        table = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| full "))
        main(["report", str(run), "--format", "html"])
        capsys.readouterr()
        return (
            browse(run / "report.html", PROBE, tmp_path / "profile")["cells"]["/arms/0/accuracy/mean"],
            summary,
            table,
        )

    before, path = everywhere(), run / "records.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[0])
    lines[0] = json.dumps(record | {"correct": not record["correct"]})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    after = everywhere()
    assert abs(float(after[0]) - float(before[0])) == pytest.approx(1 / 12)
    assert after[1] == float(after[0]) != before[1]
    assert after[2] != before[2]


@pytest.mark.slow
def test_thirty_arms_and_forty_questions_stay_below_ten_megabytes(tmp_path):
    rows = list(records(THIRTY, questions=60))
    big = np.random.default_rng(0).integers(0, 256, (16, 336, 336, 3), dtype=np.uint8)
    known = {(each.arm, each.uid): tokens(each.uid, each.arm) for each in rows}
    known = {
        key: replace(
            each, media=(MediumTokens(tuple(range(16)), ((2, 2),) * 16, ("#+-." if key[0] != "full" else "####") * 16),)
        )
        for key, each in known.items()
    }
    draw_gallery(tmp_path, rows, known, lambda uid: [Pictures(list(big), tuple(range(16)))])
    assert 0 < len(read_gallery(tmp_path)) <= 40
    write_page([tmp_path], tmp_path / "report.html", summarise(rows), rows)
    assert (tmp_path / "report.html").stat().st_size <= 10_000_000


def test_the_page_without_times_baseline_or_answers(tmp_path):
    rows = [replace(each, milliseconds=None, expected=[], correct=None) for each in records(["random"], types=("",))]
    write_page([tmp_path], tmp_path / "page.html", summarise(rows), rows)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<svg" not in text
    assert "No arm is named full" in text
    assert "dispute" not in text
