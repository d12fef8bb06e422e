"""Japanese questions about words, numbers and the world, each with its answer."""

from __future__ import annotations

from random import Random

from tiny_chat.lexicon import (
    ANIMALS,
    COLOURS,
    KINDS,
    NOUNS,
    OPPOSITES,
    SEASONS,
    SOUNDS,
    VERBS,
    WEEKDAYS,
    Noun,
)
from tiny_chat.talk_types import Turn
from tiny_chat.why import WHY

_COUNTERS = [
    ("りんご", "個"),
    ("みかん", "個"),
    ("たまご", "個"),
    ("えんぴつ", "本"),
    ("花", "本"),
    ("紙", "枚"),
    ("切手", "枚"),
    ("本", "冊"),
    ("犬", "匹"),
    ("金魚", "匹"),
    ("車", "台"),
    ("あめ", "個"),
    ("ボール", "個"),
]


def meaning(rng: Random) -> Turn:
    noun = rng.choice(NOUNS)
    question = rng.choice(
        [
            "{}とは何ですか。",
            "{}って何ですか？",
            "{}とは何？",
            "{}って何？",
            "{}を説明してください。",
        ]
    )
    return question.format(noun.word), f"{noun.word}は、{noun.meaning}です。"


def word_of_meaning(rng: Random) -> Turn:
    noun = rng.choice(NOUNS)
    question = rng.choice(
        [
            "{}は何ですか。",
            "{}は何ですか？",
            "{}は何？",
            "{}を何と言いますか。",
            "{}の名前を教えてください。",
        ]
    )
    return question.format(noun.meaning), f"{noun.word}です。"


def kind(rng: Random) -> Turn:
    noun = rng.choice([noun for noun in NOUNS if noun.kind not in ("自然", "天気")])
    question = rng.choice(["{}は何の仲間ですか。", "{}は何の種類ですか？", "{}は何の仲間？"])
    return question.format(noun.word), f"{noun.word}は{noun.kind}の仲間です。"


def members(rng: Random) -> Turn:
    kind_name = rng.choice(KINDS)
    words = [noun.word for noun in NOUNS if noun.kind == kind_name]
    count = rng.randint(1, min(4, len(words)))
    figure = ["", "一", "二", "三", "四"][count]
    chosen = rng.sample(words, count)
    question = rng.choice(
        ["{k}を{n}つ挙げてください。", "{k}の例を{n}つ教えて。", "{k}の名前を{n}つ言ってください。"]
    )
    return question.format(k=kind_name, n=figure), "、".join(chosen) + "です。"


def is_kind(rng: Random) -> Turn:
    noun = rng.choice(
        [noun for noun in NOUNS if noun.kind not in ("食べ物", "道具", "自然", "場所")]
    )
    asked = (
        noun.kind
        if rng.random() < 0.5
        else rng.choice(
            [
                "果物",
                "野菜",
                "動物",
                "鳥",
                "魚",
                "虫",
                "乗り物",
                "楽器",
                "花",
                "服",
                "家具",
                "スポーツ",
            ]
        )
    )
    question = rng.choice(
        ["{}は{}ですか。", "{}は{}ですか？", "{}は{}の仲間ですか。", "{}って{}？"]
    )
    if asked == noun.kind:
        answer = f"はい、{noun.word}は{asked}です。"
    elif asked == "動物" and noun.kind in ("鳥", "魚", "虫"):
        answer = f"はい、{noun.word}は{noun.kind}で、{asked}の一つです。"
    else:
        answer = f"いいえ、{noun.word}は{asked}ではありません。{noun.kind}です。"
    return question.format(noun.word, asked), answer


def sound(rng: Random) -> Turn:
    animal, voice = rng.choice(list(SOUNDS.items()))
    question = rng.choice(
        ["{}は何と鳴きますか。", "{}の鳴き声は？", "{}の鳴き声を教えてください。", "{}はどう鳴く？"]
    )
    return question.format(animal), f"{animal}は「{voice}」と鳴きます。"


def colour(rng: Random) -> Turn:
    thing, colour_name = rng.choice(list(COLOURS.items()))
    if rng.random() < 0.3:
        asked = rng.choice(sorted(set(COLOURS.values())))
        yes = asked == colour_name
        answer = f"はい、{thing}は{asked}です。" if yes else f"いいえ、{thing}は{colour_name}です。"
        return f"{thing}は{asked}ですか。", answer
    question = rng.choice(
        ["{}は何色ですか。", "{}の色は何ですか？", "{}は何色？", "{}の色を教えて。"]
    )
    return question.format(thing), f"{thing}は{colour_name}です。"


def animal_fact(rng: Random) -> Turn:
    animal = rng.choice(ANIMALS)
    word = animal.word
    choices = [
        (f"{word}の足は何本ですか。", f"{word}の足は{animal.legs}本です。"),
        (f"{word}はどこにいますか。", f"{word}は{animal.place}にいます。"),
        (f"{word}は何を食べますか。", f"{word}は{animal.food}を食べます。"),
        (f"{word}の食べ物は何？", f"{word}は{animal.food}を食べます。"),
        (
            f"{word}について教えてください。",
            f"{word}は{animal.place}にいて、{animal.food}を食べます。",
        ),
    ]
    return rng.choice(choices)


def size(rng: Random) -> Turn:
    first, second = rng.sample(ANIMALS, 2)
    while first.size == second.size:
        first, second = rng.sample(ANIMALS, 2)
    bigger, smaller = (first, second) if first.size > second.size else (second, first)
    if rng.random() < 0.6:
        question = rng.choice(["{}と{}、どちらが大きいですか。", "{}と{}ではどちらが大きい？"])
        answer = f"{bigger.word}のほうが大きいです。"
    else:
        question = rng.choice(["{}と{}、どちらが小さいですか。", "{}と{}ではどちらが小さい？"])
        answer = f"{smaller.word}のほうが小さいです。"
    return question.format(first.word, second.word), answer


def opposite(rng: Random) -> Turn:
    pair = rng.choice(OPPOSITES[:5] + OPPOSITES)
    word, other = pair if pair[0] == "早い" or rng.random() < 0.5 else pair[::-1]
    question = rng.choice(
        [
            "「{}」の反対は何ですか。",
            "「{}」の反対の言葉は？",
            "{}の反対は？",
            "{}の反対の言葉を教えてください。",
        ]
    )
    return question.format(word), f"「{word}」の反対は「{other}」です。"


def sum_or_difference(rng: Random) -> Turn:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.5:
        question = rng.choice(
            ["{}たす{}はいくつですか。", "{}+{}は？", "{}足す{}は何ですか。", "{} + {} = ?"]
        )
        result = a + b
    else:
        a, b = max(a, b), min(a, b)
        question = rng.choice(
            ["{}ひく{}はいくつですか。", "{}-{}は？", "{}引く{}は何ですか。", "{} - {} = ?"]
        )
        result = a - b
    return question.format(a, b), rng.choice(["{}です。", "答えは{}です。"]).format(result)


def product(rng: Random) -> Turn:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    question = rng.choice(["{}かける{}はいくつですか。", "{}×{}は？"])
    return question.format(a, b), f"答えは{a * b}です。"


def word_problem(rng: Random) -> Turn:
    thing, unit = rng.choice(_COUNTERS)
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    if rng.random() < 0.5:
        story = rng.choice(["{t}が{a}{u}あります。{b}{u}もらうと、全部で何{u}ですか。"])
        return story.format(
            t=thing, a=a, b=b, u=unit
        ), f"{a}+{b}={a + b}なので、{a + b}{unit}です。"
    a, b = max(a, b) + 1, min(a, b)
    story = "{t}が{a}{u}あります。{b}{u}あげると、残りは何{u}ですか。"
    return story.format(t=thing, a=a, b=b, u=unit), f"{a}-{b}={a - b}なので、{a - b}{unit}です。"


def compare_numbers(rng: Random) -> Turn:
    a, b = rng.sample(range(0, 21), 2)
    form = rng.random()
    if form < 0.35:
        return f"{a}と{b}、どちらが大きいですか。", f"{max(a, b)}のほうが大きいです。"
    if form < 0.6:
        return f"{a}と{b}、どちらが小さいですか。", f"{min(a, b)}のほうが小さいです。"
    yes = a > b
    answer = f"はい、{a}は{b}より大きいです。" if yes else f"いいえ、{a}は{b}より小さいです。"
    return f"{a}は{b}より大きいですか。", answer


def counting(rng: Random) -> Turn:
    start = rng.randint(1, 12)
    end = start + rng.randint(2, 6)
    numbers = list(range(start, end + 1))
    if rng.random() < 0.3:
        return f"{end}から{start}まで逆に数えてください。", "、".join(
            map(str, numbers[::-1])
        ) + "です。"
    question = rng.choice(["{}から{}まで数えてください。", "{}から{}まで数えて。"])
    return question.format(start, end), "、".join(map(str, numbers)) + "です。"


def next_number(rng: Random) -> Turn:
    n = rng.randint(1, 30)
    if rng.random() < 0.6:
        return f"{n}の次の数は何ですか。", f"{n}の次は{n + 1}です。"
    return f"{n}の前の数は何ですか。", f"{n}の前は{n - 1}です。"


def weekday(rng: Random) -> Turn:
    i = rng.randrange(7)
    day, after, before = WEEKDAYS[i], WEEKDAYS[(i + 1) % 7], WEEKDAYS[i - 1]
    return rng.choice(
        [
            (f"{day}の次の日は何曜日ですか。", f"{day}の次の日は{after}です。"),
            (f"{day}の次は？", f"{day}の次の日は{after}です。"),
            (f"{day}の前の日は何曜日ですか。", f"{day}の前の日は{before}です。"),
            (f"今日は{day}です。明日は何曜日ですか。", f"明日は{after}です。"),
            (f"今日は{day}です。昨日は何曜日でしたか。", f"昨日は{before}でした。"),
            ("一週間は何日ですか。", "一週間は7日です。"),
        ]
    )


def month(rng: Random) -> Turn:
    n = rng.randint(1, 12)
    season = next(name for name, months, *_ in SEASONS if n in months)
    return rng.choice(
        [
            (f"{n}月の次は何月ですか。", f"{n}月の次は{n % 12 + 1}月です。"),
            (f"{n}月の前は何月ですか。", f"{n}月の前は{(n - 2) % 12 + 1}月です。"),
            (f"{n}月の季節は何ですか。", f"{n}月の季節は{season}です。"),
            (f"{n}月はどの季節ですか？", f"{n}月の季節は{season}です。"),
            ("一年は何か月ですか。", "一年は12か月です。"),
        ]
    )


def season_fact(rng: Random) -> Turn:
    name, months, weather, sight, food, pastime = rng.choice(SEASONS)
    span = f"{months[0]}月から{months[-1]}月"
    return rng.choice(
        [
            (f"{name}はどんな季節ですか。", f"{name}は{weather}季節で、{sight}がきれいです。"),
            (f"{name}は何月ですか。", f"{name}は{span}ごろです。"),
            (f"{name}の食べ物は何ですか。", f"{name}には{food}がおいしいです。"),
            (f"{name}には何をしますか。", f"{name}には{pastime}をして楽しみます。"),
            (f"{pastime}をする季節はいつですか。", f"{name}です。"),
            (f"{food}がおいしい季節は？", f"{name}です。"),
        ]
    )


def polite(rng: Random) -> Turn:
    plain, formal, _ = rng.choice(VERBS)
    if rng.random() < 0.7:
        question = rng.choice(["「{}」を丁寧に言ってください。", "「{}」を丁寧な言い方にして。"])
        return question.format(plain), f"「{formal}」です。"
    return f"「{formal}」を普通の言い方にしてください。", f"「{plain}」です。"


def translate(rng: Random) -> Turn:
    pairs = [(noun.word, noun.english) for noun in NOUNS] + [(p, e) for p, _, e in VERBS]
    word, english = rng.choice(pairs)
    if rng.random() < 0.6:
        question = rng.choice(
            ["「{}」を英語で言うと？", "「{}」は英語で何ですか。", "{}を英語にしてください。"]
        )
        return question.format(word), f"「{english}」です。"
    question = rng.choice(["「{}」を日本語で言うと？", "「{}」は日本語で何ですか。"])
    return question.format(english), f"「{word}」です。"


def why(rng: Random) -> Turn:
    thing, answer = rng.choice(WHY)
    question = rng.choice(
        ["どうして{}の？", "なぜ{}のですか。", "どうして{}のですか？", "なんで{}の？"]
    )
    return question.format(thing), answer


# Kinds that overlap: はさみ is a tool and stationery, the sea is nature and a place.
_OVERLAPS = {"文房具": ("道具",), "場所": ("自然",), "動物": ("鳥", "魚", "虫"), "服": ("道具",)}


def _distractors(rng: Random, answer: Noun, *, same_kind: bool) -> list[str]:
    pool = [
        noun.word
        for noun in NOUNS
        if noun.word != answer.word
        and (noun.kind == answer.kind) == same_kind
        and noun.kind not in _OVERLAPS.get(answer.kind, ())
    ]
    if len(pool) < 4:
        pool += [noun.word for noun in NOUNS if noun.kind != answer.kind]
    return rng.sample(pool, 4)


def multiple_choice(rng: Random) -> Turn:
    """One question, five choices, and the right one copied out as the whole answer."""
    form = rng.random()
    if form < 0.5:
        answer = rng.choice(NOUNS)
        choices = [answer.word, *_distractors(rng, answer, same_kind=rng.random() < 0.4)]
        question = answer.meaning + rng.choice(
            ["は何ですか。", "はどれ？", "は？", "を選んでください。"]
        )
    elif form < 0.7:
        answer = rng.choice(
            [n for n in NOUNS if n.kind not in ("食べ物", "お菓子", "道具", "自然")]
        )
        choices = [answer.word, *_distractors(rng, answer, same_kind=False)]
        question = rng.choice(
            ["次のうち{}はどれですか。", "{}はどれ？", "{}を一つ選んでください。"]
        )
        question = question.format(answer.kind)
    elif form < 0.85:
        word, other = rng.choice(OPPOSITES)
        wrong = [w for pair in OPPOSITES for w in pair if w not in (word, other)]
        choices = [other, *rng.sample(sorted(set(wrong)), 4)]
        question = f"「{word}」の反対はどれですか。"
    else:
        thing, right = rng.choice(list(COLOURS.items()))
        wrong = sorted(set(COLOURS.values()) - {right})
        choices = [right, *rng.sample(wrong, 4)]
        question = f"{thing}の色はどれですか。"
    right_choice = choices[0]
    rng.shuffle(choices)
    return format_choices(rng, question, choices), right_choice


def format_choices(rng: Random, question: str, choices: list[str]) -> str:
    layout = rng.random()
    if layout < 0.6:
        return f"質問: {question}\n選択肢: {', '.join(choices)}"
    if layout < 0.8:
        return f"質問：{question}\n選択肢：{'、'.join(choices)}"
    return question + "\n" + "\n".join(f"- {choice}" for choice in choices)


KNOWLEDGE = [
    (meaning, 3.0), (word_of_meaning, 3.0), (kind, 1.5), (members, 1.5), (is_kind, 2.0),
    (sound, 0.8), (colour, 1.5), (animal_fact, 1.5), (size, 1.2), (opposite, 1.5),
    (sum_or_difference, 3.0), (product, 1.0), (word_problem, 1.5), (compare_numbers, 1.2),
    (counting, 1.2), (next_number, 0.8), (weekday, 1.0), (month, 1.0), (season_fact, 1.0),
    (polite, 0.8), (translate, 1.5), (why, 4.0), (multiple_choice, 8.0),
]  # fmt: skip
