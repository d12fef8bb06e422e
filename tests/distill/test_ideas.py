"""Laws of new pairs: read tolerantly, counted strictly, none nearly another, the same however
stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from distill.distilling import Carry, lines, settings
from distill.teacher import ideas, pair
from endpoint.chat_server import Answer, ChatServer, completion
from hypothesis import given
from hypothesis import strategies as st

from tanren.data.near import comparable, jaccard, shingles
from tanren.distill.distillation import Distilled
from tanren.distill.pairs import Pair, Unreadable, read_pairs
from tanren.distill.seeds import drawn, read_seeds
from tanren.distill.settings import IdeasConfig
from tanren.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
TARO = ROOT / "data" / "taro.jsonl"


def wanted(url: str, **changes: Any) -> dict[str, Any]:
    own = {"count": 30, "seed_rows": 5, "near_threshold": 0.7, **changes.pop("ideas", {})}
    return settings(
        url, constraints=[{"length": {"max": 60}}], ideas=own, wording="ja", repairs=1, **changes
    )


def accounted(done: Distilled) -> None:
    found = done.ideas
    assert found is not None
    decided = done.summary.accepted + done.summary.rejected + done.summary.left
    near = found["near_seeds"] + found["near_accepted"]
    assert found["candidates"] == decided + near + found["beyond_count"]
    rejected = lines(done.folder.rejected_file)
    reasons = Counter(row["reason"] for row in rejected)
    assert reasons["nearly a seed"] == found["near_seeds"]
    assert reasons["nearly an accepted row"] == found["near_accepted"]
    unreadable = sum(n for why, n in reasons.items() if why.startswith("unreadable: "))
    assert unreadable == sum(found["unreadable"].values())


def test_pairs_in_the_seeds_manner_none_of_them_nearly_another(
    carry_out: Carry, teacher: ChatServer
) -> None:
    teacher.behave = ideas
    done = carry_out(wanted(teacher.url), seeds=TARO)
    found = done.ideas
    assert found is not None and done.complete
    rows = [row["messages"] for row in lines(done.folder.train_file)]
    assert len(rows) == done.summary.accepted == found["accepted"] == 30
    system = lines(TARO)[0]["messages"][0]["content"]
    assert all(row[0] == {"role": "system", "content": system} for row in rows)
    seeds = [seed.question for seed in read_seeds(TARO, 5)]
    questions = [shingles(comparable(text)) for text in [*seeds, *(r[1]["content"] for r in rows)]]
    for number, one in enumerate(questions[5:], start=5):
        assert all(jaccard(one, other) < 0.7 for other in questions[:number])
    accounted(done)
    assert found["near_seeds"] and found["unreadable"]["no whole JSON object"]
    asked = teacher.bodies[0]["messages"][0]["content"]
    assert system in asked and "10組" in asked and sum(seed in asked for seed in seeds) == 4
    provenance = lines(done.folder.provenance_file)
    assert len(provenance) == 30 and provenance[0]["source"]["idea"].startswith("request 0 ")


def test_the_same_rows_however_many_are_asked_at_once_and_nothing_twice(
    carry_out: Carry, teacher: ChatServer
) -> None:
    teacher.behave = ideas
    greedy = {"temperature": 0.0}
    outputs = []
    for concurrency in (1, 5):
        done = carry_out(
            wanted(teacher.url, concurrency=concurrency, teacher=greedy), seeds=TARO, overwrite=True
        )
        files = (done.folder.train_file, done.folder.rejected_file)
        outputs.append([file.read_bytes() for file in files][:1])
    assert outputs[0] == outputs[1]
    asked = len(teacher.bodies)
    more = carry_out(wanted(teacher.url, ideas={"count": 40}, teacher=greedy), seeds=TARO)
    assert more.summary.accepted == 40 and len(teacher.bodies) > asked
    assert more.folder.train_file.read_bytes().startswith(outputs[0][0]), "the first ones stay"
    bodies = Counter(str(body) for body in teacher.bodies)
    assert max(bodies.values()) == 1, "a greedy teacher's replies are kept by content"


def test_pairs_beyond_the_count_are_counted(carry_out: Carry, teacher: ChatServer) -> None:
    """A teacher that gives more than it is asked for: whole requests are left over."""
    teacher.behave = ideas
    done = carry_out(wanted(teacher.url, concurrency=5, ideas={"per_batch": 2}), seeds=TARO)
    assert done.ideas is not None
    assert done.summary.accepted == 30 and done.ideas["requests"] < len(teacher.bodies)
    assert done.ideas["beyond_count"] >= 8
    accounted(done)


def test_patience_ends_where_nothing_new_comes(carry_out: Carry, teacher: ChatServer) -> None:
    same = "\n".join(json.dumps(pair(k), ensure_ascii=False) for k in range(7))
    teacher.behave = lambda body: Answer(body=completion(same))
    done = carry_out(wanted(teacher.url, concurrency=1, ideas={"patience": 2}), seeds=TARO)
    found = done.ideas
    assert found is not None and done.complete
    assert (done.summary.accepted, found["requests"], found["near_accepted"]) == (7, 3, 14)
    assert "2 requests in a row" in found["ended"]
    accounted(done)


def test_answers_are_mended_and_what_never_holds_is_rejected(
    carry_out: Carry, teacher: ChatServer
) -> None:
    def behave(body: Any) -> Answer:
        last = body["messages"][-1]["content"]
        if "短くして" not in last:
            pairs = [{**pair(k), "answer": "長" * (70 + k)} for k in range(4)]
            return Answer(body=completion("\n".join(map(json.dumps, pairs))))
        return Answer(
            body=completion("短い" if "70文字" in last or "71文字" in last else "長" * 90)
        )

    teacher.behave = behave
    values = wanted(teacher.url, ideas={"count": 2, "patience": 1}, concurrency=1)
    done = carry_out(values, seeds=TARO)
    assert (done.summary.accepted, done.summary.rejected) == (2, 0)
    assert done.ideas is not None and done.ideas["beyond_count"] == 2
    more = carry_out(wanted(teacher.url, ideas={"patience": 1}, concurrency=1), seeds=TARO)
    assert (more.summary.accepted, more.summary.rejected) == (2, 4), "in two requests"
    first = lines(more.folder.rejected_file)[0]["attempts"]
    assert [len(attempt["answer"]) for attempt in first] == [72, 90]
    mending = next(b for b in teacher.bodies if "短くして" in b["messages"][-1]["content"])
    assert [m["role"] for m in mending["messages"]] == ["system", "user", "assistant", "user"]
    accounted(more)


def test_a_budget_leaves_what_is_missing(carry_out: Carry, teacher: ChatServer) -> None:
    teacher.behave = ideas
    done = carry_out(wanted(teacher.url, concurrency=1, budget={"requests": 2}), seeds=TARO)
    assert not done.complete and "budget.requests" in str(done.stopped)
    assert len(teacher.bodies) == 2 and 0 < done.summary.accepted <= 16
    whole = carry_out(wanted(teacher.url), seeds=TARO)
    assert whole.summary.accepted == 30 and whole.complete
    files = (whole.folder.train_file, whole.folder.rejected_file)
    before = [file.read_bytes() for file in files]
    carry_out(wanted(teacher.url, concurrency=1), seeds=TARO, overwrite=True)
    assert [file.read_bytes() for file in files] == before, "as if never stopped"


# --- reading replies ------------------------------------------------------------------------------

LINE = '{"question": "q", "answer": "a"}'


@pytest.mark.parametrize(
    "reply",
    [
        f"{LINE}\n{LINE}",
        f"```json\n{LINE}\n{LINE}\n```",
        f"[{LINE},\n {LINE}]",
        f"1. {LINE}\n2) {LINE}",
        f"- {LINE}\n・{LINE}\n",
        '{"question": "q",\n "answer": "a"}\n\n{\n"question":"q","answer":"a"}',
    ],
)
def test_every_way_to_write_pairs_is_read(reply: str) -> None:
    assert read_pairs(reply) == [Pair("q", "a")] * 2


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('{"question": "q", "answer": "a', "no whole JSON object"),
        ('{"question": "q"}', 'no "answer"'),
        ('{"question": 3, "answer": "a"}', 'a "question" that is no text'),
        ('{"question": "q", "answer": " "}', 'a "answer" that is no text'),
        ("Q: what? A: that", "words beside the pairs"),
    ],
)
def test_what_is_no_pair_is_counted_and_spoils_no_other(reply: str, why: str) -> None:
    found = read_pairs(f"{LINE}\n{reply}\n{LINE}")
    assert [one for one in found if isinstance(one, Pair)] == [Pair("q", "a")] * 2
    assert [one.why for one in found if isinstance(one, Unreadable)] == [why]


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), max_size=6), st.text())
def test_any_texts_come_back_and_any_noise_is_survived(
    texts: list[tuple[str, str]], noise: str
) -> None:
    said = [{"question": q, "answer": a} for q, a in texts if q.strip() and a.strip()]
    read_pairs(noise)
    found = read_pairs("\n".join(json.dumps(one) for one in said))
    assert [(one.question, one.answer) for one in found if isinstance(one, Pair)] == [
        (one["question"].strip(), one["answer"].strip()) for one in said
    ]


# --- seeds ----------------------------------------------------------------------------------------


def test_seeds_of_every_form(tmp_path: Path) -> None:
    file = tmp_path / "seeds.txt"
    chat = json.dumps(lines(TARO)[0], ensure_ascii=False)
    file.write_text(
        f'{chat}\n{{"question": "q", "answer": "a"}}\n\n- 道に迷いました\n', encoding="utf-8"
    )
    first, second, third = read_seeds(file, None)
    assert first.system is not None and first.answer
    assert (second.question, second.answer, second.system) == ("q", "a", None)
    assert (third.question, third.answer) == ("道に迷いました", "")
    assert len(read_seeds(file, 2)) == 2
    file.write_text('{"q": 1}\n{"question": "x"\n', encoding="utf-8")
    with pytest.raises(DataError) as error:
        read_seeds(file, None)
    assert len(error.value.faults) == 2


def test_what_a_request_shows_hangs_on_its_number_and_the_seed_alone() -> None:
    seeds = read_seeds(TARO, 12)
    config = IdeasConfig(shown=4, seed=1)
    assert drawn(seeds, config, 7) == drawn(seeds, config, 7)
    shown = [tuple(drawn(seeds, config, batch)) for batch in range(20)]
    assert len(set(shown)) > 15 and all(len(set(one)) == 4 for one in shown)
    assert drawn(seeds, IdeasConfig(shown=4, seed=2), 7) != drawn(seeds, config, 7)
