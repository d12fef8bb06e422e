"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const texts = {
    en: {
      title: "Rate the answers", rater: "Your name", comment: "Comment (optional)",
      question: "Question", reference: "An answer that is known to be good", answer: "Answer",
      yes: "yes", no: "no", tie: "no difference", back: "← Back", next: "Next →",
      open: "Next one not rated", csv: "Download ratings (CSV)", json: "Download ratings (JSON)",
      progress: (at, all, done) => `${at} of ${all}, ${done} rated completely`,
      left: (count) => `Downloaded. ${count} not rated completely; they count as not rated.`,
      complete: "Downloaded. Everything is rated. Thank you.",
      nameless: "Write your name first, so that raters can be told apart.",
      bounds: (value) => `${value} is not a number from 0 to 100; it is not kept.`,
      unsaved: "This browser keeps nothing for this page: download before you close it.",
      keys: { score: "Enter: next field", likert: "1 to 5: rate", rubric: "y / n: yes / no",
        pairwise: "a / b: that answer is better; t: no difference" },
      moves: "arrow keys ← →: back and next; u: next one not rated",
    },
    ja: {
      title: "回答の評価", rater: "お名前", comment: "コメント（任意）",
      question: "質問", reference: "良いと分かっている回答の例", answer: "回答",
      yes: "はい", no: "いいえ", tie: "差がない", back: "← 前へ", next: "次へ →",
      open: "未評価の項目へ", csv: "評価をダウンロード (CSV)", json: "評価をダウンロード (JSON)",
      progress: (at, all, done) => `${all} 件中 ${at} 件目（評価済み ${done} 件）`,
      left: (count) => `ダウンロードしました。評価の終わっていない項目が ${count} 件あります。`,
      complete: "ダウンロードしました。すべて評価済みです。ありがとうございました。",
      nameless: "先にお名前を入力してください（評価者を区別するためです）。",
      bounds: (value) => `${value} は 0 から 100 の数ではないため、記録していません。`,
      unsaved: "このブラウザでは入力が保存されません。閉じる前にダウンロードしてください。",
      keys: { score: "Enter: 次の欄へ", likert: "1〜5: 評価", rubric: "y / n: はい / いいえ",
        pairwise: "a / b: そちらが良い、t: 差がない" },
      moves: "← →: 前後の項目へ、u: 未評価の項目へ",
    },
  }[data.language];
  const choices = {
    likert: ["1", "2", "3", "4", "5"].map((n) => [n, n, n]),
    rubric: [["yes", texts.yes, "y"], ["no", texts.no, "n"]],
    pairwise: [["A", "A", "a"], ["B", "B", "b"], ["tie", texts.tie, "t"]],
  }[data.mode];
  const place = "tanren-sheet-" + data.sheet;
  const names = data.criteria.map((criterion) => criterion.name);
  const at = (id) => document.getElementById(id);
  let state = { rater: "", position: 0, values: {}, comments: {} };
  let current = 0;
  let changed = false;
  let stored = true;

  function recall() {
    try {
      const kept = JSON.parse(window.localStorage.getItem(place));
      if (kept && kept.values && kept.comments) state = { ...state, ...kept };
    } catch { stored = false; say(texts.unsaved); }
    state.position = Math.min(Math.max(state.position | 0, 0), data.items.length - 1);
  }

  function keep() {
    changed = true;
    try {
      window.localStorage.setItem(place, JSON.stringify(state));
    } catch { stored = false; say(texts.unsaved); }
  }

  const item = () => data.items[state.position];
  const valuesOf = (one) => state.values[one.item] || {};
  const isDone = (one) => names.every((name) => name in valuesOf(one));
  const say = (words) => { at("status").textContent = words; };

  function element(tag, words, className) {
    const made = document.createElement(tag);
    if (words !== undefined) made.textContent = words;
    if (className) made.className = className;
    return made;
  }

  function card(title, words, className) {
    const made = element("article", undefined, className);
    made.append(element("h2", title), element("p", words));
    return made;
  }

  function show() {
    const one = item();
    const pair = one.answers.length > 1;
    const cards = [card(texts.question, one.question, "wide")];
    if (one.reference) cards.push(card(texts.reference, one.reference, "wide"));
    one.answers.forEach((answer, k) => {
      const title = pair ? `${texts.answer} ${"AB"[k]}` : texts.answer;
      cards.push(card(title, answer, pair ? "" : "wide"));
    });
    at("texts").replaceChildren(...cards);
    at("criteria").replaceChildren(...data.criteria.map(field));
    at("comment").value = state.comments[one.item] || "";
    const open = names.findIndex((name) => !(name in valuesOf(one)));
    focusOn(open < 0 ? 0 : open);
    count();
  }

  function field(criterion, k) {
    const made = element("fieldset");
    made.append(element("legend", criterion.question));
    const value = valuesOf(item())[criterion.name];
    if (choices) {
      for (const [choice, words] of choices) {
        const radio = element("input");
        Object.assign(radio, { type: "radio", name: criterion.name, value: choice });
        radio.checked = value === choice;
        radio.addEventListener("change", () => {
          set(k, choice);
          mark(Math.min(k + 1, names.length - 1));
        });
        const label = element("label");
        label.append(radio, " " + words);
        made.append(label);
      }
    } else {
      const number = element("input");
      Object.assign(number, { type: "number", min: 0, max: 100, step: "any", name: criterion.name });
      number.setAttribute("aria-label", criterion.question);
      number.value = value === undefined ? "" : value;
      number.addEventListener("change", () => { setNumber(k, number); });
      number.addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        setNumber(k, number);
        if (k + 1 < names.length) focusOn(k + 1); else move(1);
      });
      made.append(number);
    }
    made.addEventListener("focusin", () => { mark(k); });
    return made;
  }

  function mark(k) {
    current = k;
    [...at("criteria").children].forEach((one, j) => one.classList.toggle("current", j === k));
  }

  function focusOn(k) {
    mark(k);
    const one = at("criteria").children[k];
    const input = one.querySelector("input:checked") || (choices ? null : one.querySelector("input"));
    if (input) input.focus(); else if (document.activeElement) document.activeElement.blur();
  }

  function set(k, value) {
    const values = { ...valuesOf(item()) };
    if (value === undefined) delete values[names[k]]; else values[names[k]] = value;
    state.values[item().item] = values;
    keep();
    count();
  }

  function setNumber(k, input) {
    const words = input.value.trim();
    const value = Number(words);
    const good = words !== "" && value >= 0 && value <= 100;
    if (words !== "" && !good) { say(texts.bounds(words)); input.value = ""; } else { say(""); }
    set(k, good ? words : undefined);
  }

  function choose(choice) {
    for (const radio of at("criteria").children[current].querySelectorAll("input")) {
      radio.checked = radio.value === choice;
    }
    set(current, choice);
    if (current + 1 < names.length) mark(current + 1);
  }

  function count() {
    const done = data.items.filter(isDone).length;
    at("progress").textContent = texts.progress(state.position + 1, data.items.length, done);
    at("bar").setAttribute("aria-valuemax", data.items.length);
    at("bar").setAttribute("aria-valuenow", done);
    at("done").style.width = `${(100 * done) / data.items.length}%`;
    at("back").disabled = state.position === 0;
    at("next").disabled = state.position === data.items.length - 1;
  }

  function go(position) {
    if (position < 0 || position >= data.items.length) return;
    state.position = position;
    keep();
    show();
    window.scrollTo?.(0, 0);
  }

  const move = (step) => go(state.position + step);

  function toOpen() {
    const order = data.items.map((_, k) => (state.position + 1 + k) % data.items.length);
    const open = order.find((k) => !isDone(data.items[k]));
    if (open !== undefined) go(open);
  }

  function onKey(event) {
    const typing = event.target.matches?.('textarea, input:not([type="radio"])');
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const key = event.key.length === 1 ? event.key.normalize("NFKC").toLowerCase() : event.key;
    const chosen = (choices || []).find((choice) => choice[2] === key);
    if (chosen) choose(chosen[0]);
    else if (key === "ArrowRight" || (key === "Enter" && !event.target.matches?.("button"))) move(1);
    else if (key === "ArrowLeft") move(-1);
    else if (key === "u") toOpen();
    else return;
    event.preventDefault();
  }

  // A sheet program runs a cell that begins with one of these as a formula.
  const cell = (words) =>
    `"${String(words).replace(/^(?=[=+\-@\t\r＝＋－＠])/u, "'").replaceAll('"', '""')}"`;

  function asCsv() {
    const lines = [["sheet", "item", ...names, "comment", "rater"].map(cell)];
    for (const one of data.items) {
      const values = valuesOf(one);
      const rated = names.map((name) => (name in values ? values[name] : ""));
      const comment = state.comments[one.item] || "";
      lines.push([data.sheet, one.item, ...rated, comment, state.rater].map(cell));
    }
    return "\ufeff" + lines.map((line) => line.join(",") + "\r\n").join("");
  }

  function asJson() {
    const ratings = data.items.map((one) => ({
      item: one.item, values: valuesOf(one), comment: state.comments[one.item] || "",
    }));
    const whole = { format: "tanren-ratings", version: data.version, sheet: data.sheet,
      rater: state.rater, ratings };
    return JSON.stringify(whole, null, 1) + "\n";
  }

  function download(suffix, type, content) {
    if (!state.rater.trim()) { say(texts.nameless); at("rater").focus(); return; }
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    const who = state.rater.trim().replace(/[^\p{L}\p{N}._-]+/gu, "-");
    link.download = `ratings-${data.sheet}-${who}.${suffix}`;
    document.body.append(link);
    link.click();
    link.remove();
    changed = false;
    const open = data.items.filter((one) => !isDone(one)).length;
    say(open ? texts.left(open) : texts.complete);
  }

  function start() {
    document.title = texts.title;
    for (const id of ["title", "back", "next", "open", "csv", "json"]) at(id).textContent = texts[id];
    at("rater-label").textContent = texts.rater;
    at("comment-label").textContent = texts.comment;
    at("keys").textContent = `${texts.keys[data.mode]}; ${texts.moves}`;
    recall();
    at("rater").value = state.rater;
    at("rater").addEventListener("input", () => { state.rater = at("rater").value; keep(); });
    at("comment").addEventListener("input", () => {
      state.comments[item().item] = at("comment").value;
      keep();
    });
    at("criteria").addEventListener("submit", (event) => { event.preventDefault(); });
    at("back").addEventListener("click", () => { move(-1); });
    at("next").addEventListener("click", () => { move(1); });
    at("open").addEventListener("click", toOpen);
    at("csv").addEventListener("click", () => { download("csv", "text/csv;charset=utf-8", asCsv()); });
    at("json").addEventListener("click", () => { download("json", "application/json", asJson()); });
    document.addEventListener("keydown", onKey);
    window.addEventListener("beforeunload", (event) => { if (changed && !stored) event.preventDefault(); });
    show();
  }

  start();
})();
