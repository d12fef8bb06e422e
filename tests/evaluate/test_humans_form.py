"""The form as people use it: filled in by mouse and keyboard, downloaded, read back.

It runs in jsdom, a browser's document in Node. Where that is not installed the tests are skipped:
`npm install jsdom` somewhere, and NODE_PATH=.../node_modules.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tanren.evaluate.answered import Answered
from tanren.evaluate.humans import Sheet, pair_items, read_ratings, single_items, write_sheet
from tanren.evaluate.judges import load_prompt

NODE = shutil.which("node")


def _has_jsdom() -> bool:
    if NODE is None:
        return False
    found = subprocess.run([NODE, "-e", "require.resolve('jsdom')"], capture_output=True)
    return found.returncode == 0


pytestmark = pytest.mark.skipif(
    not _has_jsdom(), reason="needs Node and jsdom (npm install jsdom, NODE_PATH)"
)

# Opens argv[1] as a file, runs the steps of argv[2] and prints what they returned and downloaded.
# `open(storage)` carries localStorage from one opening to the next; null: the browser refuses it.
BROWSER = r"""
const { JSDOM, VirtualConsole } = require("jsdom");
const fs = require("fs");
const [file, steps] = process.argv.slice(1);
const seen = { downloads: [], errors: [], requests: 0 };

function prepare(window, storage) {
  const kept = new Map(Object.entries(storage || {}));
  const refuse = () => { throw new Error("denied"); };
  const store = storage === null ? { getItem: refuse, setItem: refuse } : {
    getItem: (k) => kept.get(k) ?? null, setItem: (k, v) => { kept.set(k, v); },
    all: () => Object.fromEntries(kept) };
  Object.defineProperty(window, "localStorage", { value: store });
  window.scrollTo = () => {};
  window.Blob = class { constructor(parts) { this.text = parts.join(""); } };
  window.URL.createObjectURL = (blob) => { window.lastBlob = blob; return "blob:1"; };
  window.HTMLAnchorElement.prototype.click = function () {
    seen.downloads.push({ name: this.download, ...window.lastBlob });
  };
  for (const name of ["fetch", "XMLHttpRequest", "WebSocket"]) {
    window[name] = () => { seen.requests += 1; };
  }
}

function open(storage = {}) {
  const console_ = new VirtualConsole();
  console_.on("jsdomError", (error) => { seen.errors.push(error.message); });
  const { window } = new JSDOM(fs.readFileSync(file, "utf8"), {
    url: "file://" + file, runScripts: "dangerously", virtualConsole: console_,
    pretendToBeVisual: true, beforeParse: (window) => { prepare(window, storage); } });
  const document = window.document;
  const id = (name) => document.getElementById(name);
  const fire = (target, kind, type, more) => target.dispatchEvent(
    new window[kind](type, { bubbles: true, cancelable: true, ...more }));
  return {
    document, window, id,
    press: (...keys) => keys.forEach((key) => {
      fire(document.activeElement, "KeyboardEvent", "keydown", { key });
    }),
    write: (input, text, type = "input") => { input.value = text; fire(input, "Event", type); },
    click: (name) => { (typeof name === "string" ? id(name) : name).click(); },
    leaves: () => fire(window, "Event", "beforeunload"),
    shown: () => [...document.querySelectorAll("#texts p")].map((p) => p.textContent),
    checked: () => [...document.querySelectorAll("#criteria input:checked")].map((i) => i.value),
    storage: () => window.localStorage.all(),
  };
}
console.log(JSON.stringify({ out: eval("(() => {" + steps + "})()"), ...seen }));
"""


def used(sheet: Sheet, steps: str) -> dict[str, Any]:
    """What a person saw and downloaded who did these steps."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-e", BROWSER, str(sheet.html), steps],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["errors"] == []
    assert seen["requests"] == 0
    return seen


def saved(seen: dict[str, Any], folder: Path) -> list[Path]:
    """The downloads as files."""
    paths = []
    for download in seen["downloads"]:
        path = folder / download["name"]
        path.write_bytes(download["text"].encode())
        paths.append(path)
    return paths


def row(number: int, answer: str) -> Answered:
    asked = ({"role": "user", "content": f"質問 {number}"},)
    return Answered(number, asked, "手本", answer, "stop")


def sheet_of(folder: Path, prompt: str, *answers: str) -> Sheet:
    asked = load_prompt(prompt)
    rows = [row(k, answer) for k, answer in enumerate(answers, start=1)]
    items = single_items({"tuned": rows})
    if asked.mode == "pairwise":
        others = [row(k, f"base: {answer}") for k, answer in enumerate(answers, start=1)]
        items = pair_items(rows, others, model="tuned", against="base")
    language: Any = asked.language
    return write_sheet(
        items, folder / "sheet", seed=3, mode=asked.mode, criteria=asked.criteria, language=language
    )


def test_a_rubric_filled_by_keyboard_comes_back_as_it_was_meant(tmp_path: Path) -> None:
    """Two items of four criteria: marks move on by themselves, arrows change the item."""
    sheet = sheet_of(tmp_path, "rubric.ja", "一つ目", "二つ目")
    seen = used(
        sheet,
        """
        const page = open();
        page.write(page.id("rater"), "太郎");
        page.document.activeElement.blur();
        const first = page.shown();
        page.press("y", "n", "Y", "ｙ", "ArrowRight");
        page.click(page.document.querySelector("#criteria input[value=no]"));
        page.press("n");
        const second = page.shown();
        page.write(page.id("comment"), '=1+1, "引用"\\n二行目');
        page.click("csv"); page.click("json");
        return { first, second, progress: page.id("progress").textContent,
                 status: page.id("status").textContent, lang: page.document.documentElement.lang };
        """,
    )
    out = seen["out"]
    assert out["lang"] == "ja"
    assert {out["first"][2], out["second"][2]} == {"一つ目", "二つ目"}
    assert out["first"][1] == "手本"
    assert "評価済み 1 件" in out["progress"]
    assert "1 件" in out["status"], "what is not rated is told"
    assert {d["name"] for d in seen["downloads"]} == {
        f"ratings-{sheet.sheet}-太郎.csv",
        f"ratings-{sheet.sheet}-太郎.json",
    }
    files = saved(seen, tmp_path)
    each = [read_ratings([path], sheet.key) for path in files]
    for ratings in each:
        assert ratings.raters == ("太郎",)
        assert ratings.not_rated == {"太郎": 2}
        by_name = {c: sorted(ratings.values(c, "tuned").values()) for c in ratings.criteria}
        assert by_name == {
            "coherent": [0.0, 1.0],
            "correct": [0.0, 0.0],
            "wording": [1.0],
            "concise": [1.0],
        }
        assert [comment.text for comment in ratings.comments] == ['=1+1, "引用"\n二行目']
    assert each[0].ratings == each[1].ratings
    assert files[0].read_bytes().startswith(b"\xef\xbb\xbf")
    assert "\"'=1+1" in files[0].read_text(encoding="utf-8-sig")


def test_a_pair_filled_by_mouse_and_keys_is_turned_back(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, "pairwise.en", *[f"answer {k}" for k in range(6)])
    seen = used(
        sheet,
        """
        const page = open();
        page.id("rater").focus();
        page.write(page.id("rater"), "Hana");
        page.press("a", "t", "b", "ArrowRight", "u");
        const rated = page.checked().join();
        page.document.activeElement.blur();
        for (let k = 0; k < 6; k += 1) {
          const [, , a] = page.shown();
          const tunedFirst = !a.startsWith("base:");
          if (k === 5) page.press("t");
          else if (k % 2) page.press(tunedFirst ? "a" : "b");
          else page.click(page.document.querySelector(`input[value=${tunedFirst ? "A" : "B"}]`));
          page.press("ArrowRight");
        }
        page.click("json");
        return [rated, page.id("status").textContent];
        """,
    )
    assert seen["out"] == ["", "Downloaded. Everything is rated. Thank you."]
    ratings = read_ratings(saved(seen, tmp_path), sheet.key)
    assert sorted(ratings.values("preference", "tuned").values()) == [0.5, 1, 1, 1, 1, 1]


def test_numbers_out_of_bounds_are_not_kept_and_enter_goes_on(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, "score.en", "one", "two", "three")
    seen = used(
        sheet,
        """
        const page = open();
        const said = [];
        const number = () => page.document.querySelector("#criteria input");
        page.write(page.id("rater"), "Jiro");
        for (const text of ["85", "101", "12.5"]) {
          number().focus();
          page.write(number(), text, "change");
          said.push(page.id("status").textContent);
          page.press("Enter");
        }
        page.click("csv");
        return said;
        """,
    )
    assert seen["out"][0] == "" and "101 is not a number from 0 to 100" in seen["out"][1]
    ratings = read_ratings(saved(seen, tmp_path), sheet.key)
    assert sorted(ratings.values("score", "tuned").values()) == [12.5, 85]
    assert ratings.not_rated == {"Jiro": 1}


def test_what_was_filled_in_is_there_after_closing(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, "likert.ja", "一", "二", "三")
    seen = used(
        sheet,
        """
        let page = open();
        page.write(page.id("rater"), "花");
        page.document.activeElement.blur();
        page.press("4", "ArrowRight", "２");
        const leaves = page.leaves();
        page = open(page.storage());
        const now = { rater: page.id("rater").value, at: page.id("progress").textContent,
                      here: page.checked() };
        page.press("u");
        now.open = page.checked();
        page.press("5", "ArrowLeft", "ArrowLeft");
        now.first = page.checked();
        page.click("json");
        return { leaves, ...now };
        """,
    )
    out = seen["out"]
    assert (out["rater"], out["here"], out["open"], out["first"]) == ("花", ["2"], [], ["4"])
    assert "3 件中 2 件目" in out["at"]
    assert out["leaves"] is True
    ratings = read_ratings(saved(seen, tmp_path), sheet.key)
    assert sorted(ratings.values("rating", "tuned").values()) == [2, 4, 5]


def test_a_browser_that_keeps_nothing_says_so_and_asks_before_closing(tmp_path: Path) -> None:
    sheet = sheet_of(tmp_path, "likert.en", "one")
    seen = used(
        sheet,
        """
        const page = open(null);
        const before = page.id("status").textContent;
        page.press("3");
        const leaves = page.leaves();
        page.click("csv");
        const nameless = page.id("status").textContent;
        page.write(page.id("rater"), "Jiro");
        page.click("csv");
        return { before, leaves, nameless, after: page.leaves() };
        """,
    )
    out = seen["out"]
    assert "download before you close" in out["before"]
    assert (out["leaves"], out["after"]) == (False, True)
    assert "Write your name" in out["nameless"]
    assert len(seen["downloads"]) == 1


def test_texts_are_shown_as_text(tmp_path: Path) -> None:
    nasty = "</script><img src=x onerror='window.hacked=1'><b>太字</b> &amp; \u2028🙂"
    sheet = sheet_of(tmp_path, "likert.ja", nasty)
    seen = used(
        sheet,
        """
        const page = open();
        return { shown: page.shown(), hacked: page.window.hacked ?? 0,
                 tags: page.document.querySelectorAll("img, b").length };
        """,
    )
    assert seen["out"] == {"shown": ["質問 1", "手本", nasty], "hacked": 0, "tags": 0}
