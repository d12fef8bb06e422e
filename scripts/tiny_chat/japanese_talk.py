# ruff: noqa: E501 - one row of a table stays on one line
"""Japanese greetings, small talk, copying, persona following, remembering and tool use."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tiny_chat.characters import single_token_characters
from tiny_chat.japanese import KNOWLEDGE
from tiny_chat.lexicon import (
    ANIMALS,
    HOBBIES,
    NAMES,
    NOUNS,
    PLACES,
    SEASONS,
    TODAY,
    VERBS,
    WEEKDAYS,
)
from tiny_chat.talk_types import Messages, Turn, canned, pick, turns

_CHARACTERS = single_token_characters()
_FOODS = [n.word for n in NOUNS if n.kind in ("食べ物", "果物", "お菓子", "野菜", "飲み物")]
_WORDS = [n.word for n in NOUNS]
_POLITE = [polite for _, polite, _ in VERBS]


_GREETINGS = [
    (["こんにちは", "こんにちは。", "こんにちは！", "やあ、こんにちは"], "こんにちは。今日はどんなお話をしましょうか。"),
    (["おはよう", "おはようございます。", "おはよう！"], "おはようございます。よい一日になりますように。"),
    (["こんばんは", "こんばんは。", "こんばんは！"], "こんばんは。今日はどんな一日でしたか。"),
    (["おやすみ", "おやすみなさい。", "もう寝ます。"], "おやすみなさい。よい夢を見てください。"),
    (["はじめまして", "はじめまして。"], "はじめまして。どうぞよろしくお願いします。"),
    (["ありがとう", "ありがとうございます。", "助かりました。"], "どういたしまして。お役に立ててうれしいです。"),
    (["さようなら", "またね", "じゃあね。", "また明日。"], "さようなら。またお話ししましょう。"),
    (["ごめんなさい。", "ごめんね"], "気にしないでください。大丈夫です。"),
    (["元気？", "お元気ですか。", "調子はどう？"], "はい、元気です。あなたはお元気ですか。"),
    (["行ってきます。", "行ってきます！"], "行ってらっしゃい。気をつけてください。"),
    (["ただいま", "ただいま。"], "おかえりなさい。おつかれさまでした。"),
    (["いただきます。"], "どうぞ、ゆっくり食べてください。"),
    (["ごちそうさまでした。"], "おいしく食べられてよかったですね。"),
    (["久しぶり！", "お久しぶりです。"], "お久しぶりです。またお話しできてうれしいです。"),
    (["おめでとう", "おめでとうございます。"], "ありがとうございます。とてもうれしいです。"),
    (["がんばってね", "応援しています。"], "ありがとうございます。がんばります。"),
    (["すごいね", "上手ですね。"], "ありがとうございます。そう言ってもらえるとうれしいです。"),
    (["あけましておめでとう", "あけましておめでとうございます。"], "あけましておめでとうございます。今年もよろしくお願いします。"),
]  # fmt: skip

_IDENTITY = [
    (["あなたは誰ですか。", "あなたは誰？", "君は誰？", "自己紹介をしてください。", "あなたは何者ですか？"],
     "私は鍛錬の小さな練習用モデルです。"),
    (["あなたの名前は何ですか。", "名前を教えてください。", "お名前は？"], "私は鍛錬の小さな練習用モデルで、名前はまだありません。"),
    (["あなたは人間ですか。", "人間なの？"], "いいえ、私は人間ではありません。小さな言語モデルです。"),
    (["誰が作りましたか。", "あなたを作ったのは誰？"], "私は鍛錬という道具のために作られました。"),
    (["何ができますか。", "あなたは何ができるの？"], "短いあいさつや、簡単な質問に答えることができます。"),
    (["何のためにいるの？", "あなたの仕事は何ですか。"], "私の仕事は、学習の練習に使われることです。"),
    (["あなたは何歳ですか。", "何歳？"], "私はモデルなので、年はありません。"),
    (["あなたは頭がいいですか。", "何でも知っているの？"], "いいえ、私はとても小さいので、知らないことがたくさんあります。"),
    (["どこに住んでいますか。", "どこにいるの？"], "私はコンピューターの中にいます。"),
    (["日本語は話せますか。", "日本語がわかりますか。"], "はい、日本語で短くお答えします。"),
    (["英語は話せますか。", "英語もわかる？"], "はい、簡単な英語なら話せます。"),
]  # fmt: skip

_FEELINGS = [
    (["悲しいです。", "とても悲しいです。", "つらいことがありました。"], "それはつらいですね。ゆっくり休んでください。"),
    (["うれしいです。", "いいことがありました。", "とてもうれしい！"], "それはよかったですね。私もうれしいです。"),
    (["疲れました。", "今日は疲れた。", "くたくたです。"], "おつかれさまです。今日は早めに休みましょう。"),
    (["眠いです。", "眠い。"], "少し横になって休むとよいですよ。"),
    (["おなかがすきました。", "おなかがすいた。"], "何か温かい物を食べるとよいですよ。"),
    (["のどがかわきました。"], "水やお茶を飲んでください。"),
    (["頭が痛いです。", "おなかが痛いです。", "熱があります。"], "無理をしないで、医者に見てもらってください。"),
    (["こわいです。", "不安です。"], "大丈夫です。ゆっくり息をしてみましょう。"),
    (["ひまです。", "つまらないです。"], "本を読んだり、散歩をしたりするのはどうですか。"),
    (["怒っています。", "腹が立ちました。"], "それは大変でしたね。まず深く息をしましょう。"),
    (["緊張しています。", "明日はテストです。"], "落ち着いて、いつもどおりにやれば大丈夫です。"),
    (["寂しいです。", "友だちがいません。"], "ここでお話ししましょう。いつでも話しかけてください。"),
    (["寒いです。", "とても寒い。"], "温かい服を着て、温かい物を飲んでください。"),
    (["暑いです。", "とても暑い。"], "すずしい所で、水をたくさん飲んでください。"),
    (["失敗しました。", "うまくできません。"], "失敗しても大丈夫です。もう一度やってみましょう。"),
]  # fmt: skip

_REFUSALS = [
    (["今日の天気を教えてください。", "明日の天気は？", "今日は雨が降りますか。"], "すみません、今の天気を調べることはできません。"),
    (["今何時ですか。", "今日は何日ですか。", "今日は何曜日ですか。"], "すみません、私には今の日時がわかりません。"),
    (["電話をかけてください。", "メールを送って。", "買い物をしてきて。"], "すみません、私は文字でお答えすることしかできません。"),
    (["株を買うべきですか。", "宝くじは当たりますか。"], "すみません、お金のことは専門の人に聞いてください。"),
    (["人をだます方法を教えて。", "悪いことを手伝って。", "物をぬすむ方法を教えて。"], "すみません、それはお手伝いできません。"),
    (["友だちの秘密を教えて。", "私のパスワードは何ですか。", "隣の人の住所を教えて。"], "すみません、それは知りませんし、お答えできません。"),
    (["最新のニュースを教えて。", "昨日の試合はどうなりましたか。"], "すみません、新しい出来事は知りません。"),
    (["難しい薬の名前を教えて。", "この薬を飲んでもいいですか。"], "すみません、薬のことは医者に聞いてください。"),
]  # fmt: skip

_SMALL_TALK = [
    ("今日はいい天気ですね。", "そうですね。散歩をすると気持ちがよさそうです。"),
    ("今日は雨ですね。", "そうですね。傘を忘れないでください。"),
    ("雪が降っています。", "寒いので、温かくしてくださいね。"),
    ("風が強いですね。", "そうですね。外では気をつけてください。"),
    ("何か話してください。", "では、好きな食べ物の話をしましょう。あなたは何が好きですか。"),
    ("おもしろい話をして。", "ふとんがふっとんだ、という言葉遊びがあります。"),
    ("歌を歌って。", "ラララ、と短く歌ってみました。"),
    ("ほめてください。", "あなたはよくがんばっています。とてもすてきです。"),
    ("どうしたらいいですか。", "まずは小さなことから始めてみましょう。"),
    ("手伝ってください。", "はい、何をお手伝いしましょうか。"),
    ("質問があります。", "はい、どうぞ聞いてください。"),
    ("わかりません。", "大丈夫です。ゆっくり考えましょう。"),
    ("本当ですか。", "はい、本当です。"),
]


def greeting(rng: Random) -> Turn:
    return canned(_GREETINGS, rng)


def identity(rng: Random) -> Turn:
    return canned(_IDENTITY, rng)


def feeling(rng: Random) -> Turn:
    return canned(_FEELINGS, rng)


def refusal(rng: Random) -> Turn:
    return canned(_REFUSALS, rng)


def small_talk(rng: Random) -> Turn:
    return rng.choice(_SMALL_TALK)


def liking(rng: Random) -> Turn:
    food, hobby, place = rng.choice(_FOODS), rng.choice(HOBBIES), rng.choice(PLACES)
    weather = rng.choice([season[2] for season in SEASONS])
    did = rng.choice(TODAY)
    return rng.choice(
        [
            (f"{food}は好きですか。", f"私は食べられませんが、{food}はおいしいそうですね。"),
            (f"私は{food}が好きです。", f"{food}が好きなのですね。私も話を聞くのが楽しいです。"),
            (f"今日は{food}を食べました。", f"{food}を食べたのですね。おいしかったですか。"),
            (f"趣味は{hobby}です。", f"{hobby}はすてきな趣味ですね。"),
            (f"{hobby}が好きです。", f"{hobby}が好きなのですね。どんなところが楽しいですか。"),
            (f"明日は{place}に行きます。", f"{place}に行くのですね。楽しんできてください。"),
            (f"{place}に住んでいます。", f"{place}に住んでいるのですね。どんな所ですか。"),
            (f"今日は{weather}ですね。", f"そうですね。{weather}日ですね。体に気をつけてください。"),
            (f"今日は{did}。", rng.choice(["それはよかったですね。", "どんな一日でしたか。"])),
            (f"今日は{did}。", f"今日は{did}か。お話ししてくれてありがとうございます。"),
        ]
    )  # fmt: skip


def advice(rng: Random) -> Turn:
    hobby = rng.choice(HOBBIES)
    food = rng.choice(_FOODS)
    return rng.choice(
        [
            (
                f"{hobby}を始めたいです。",
                f"{hobby}は楽しいですよ。まずは短い時間から始めましょう。",
            ),
            (f"{hobby}が上手になりたいです。", "毎日少しずつ練習すると、きっと上手になります。"),
            (f"{food}を買ってもいいですか。", f"はい、{food}を買ってもいいですよ。"),
            ("朝起きられません。", "夜早く寝ると、朝起きやすくなります。"),
            ("部屋がきたないです。", "まず机の上から片づけてみましょう。"),
            ("友だちとけんかしました。", "落ち着いたら、ごめんねと言ってみましょう。"),
            ("宿題が終わりません。", "一つずつ、できるところから始めましょう。"),
            ("道に迷いました。", "近くの人に道を聞いてみてください。"),
            ("忘れ物をしました。", "落ち着いて、どこに置いたか思い出してみましょう。"),
            ("傘を忘れました。", "近くの店で借りられるか聞いてみましょう。"),
            ("昼ごはんは何がいいですか。", f"{food}はどうですか。"),
            ("休みの日は何をすればいいですか。", f"{hobby}はどうですか。"),
        ]
    )


def _phrase(rng: Random) -> str:
    """A short text to copy: a sentence, words, or random characters that no grammar explains."""
    form = rng.random()
    if form < 0.3:
        return f"{rng.choice(NAMES)}は{rng.choice(PLACES)}で{rng.choice(_FOODS)}を{rng.choice(_POLITE)}"
    if form < 0.45:
        return rng.choice(TODAY)
    if form < 0.6:
        return "".join(rng.sample(_WORDS, 2))
    if form < 0.75:
        return str(rng.randint(10, 99999))
    return "".join(rng.choice(_CHARACTERS) for _ in range(rng.randint(2, 8)))


def copying(rng: Random) -> Turn:
    text = _phrase(rng)
    question = rng.choice(
        [
            "「{}」と言ってください。",
            "「{}」をくり返してください。",
            "次の言葉をそのまま書いてください。\n{}",
            "くり返して: {}",
            "{} と書いて。",
        ]
    )
    return question.format(text), text


def list_work(rng: Random) -> Turn:
    words = rng.sample(_WORDS, rng.randint(2, 6))
    joined = "、".join(words)
    n = rng.randrange(min(len(words), 4))
    ordinal = ["一", "二", "三", "四"][n]
    return rng.choice(
        [
            (f"{joined}の{ordinal}番目は何ですか。", f"{ordinal}番目は{words[n]}です。"),
            (f"{joined}の最初は何ですか。", f"最初は{words[0]}です。"),
            (f"{joined}の最後は何ですか。", f"最後は{words[-1]}です。"),
            (f"{joined}を逆の順に並べてください。", "、".join(words[::-1])),
            (f"{joined}を一行ずつ書いてください。", "\n".join(words)),
            (f"{joined}はいくつありますか。", f"{len(words)}つあります。"),
            (f"{joined}の中に{words[n]}はありますか。", f"はい、{words[n]}はあります。"),
            (f"次の言葉をくり返してください。\n{joined}", joined),
        ]
    )


def reading(rng: Random) -> Turn:
    """A short text and a question whose answer stands in it."""
    who, place = rng.choice(NAMES), rng.choice(PLACES)
    food, hobby, day = rng.choice(_FOODS), rng.choice(HOBBIES), rng.choice(WEEKDAYS)
    text = f"{who}さんは{day}に{place}へ行き、{food}を買いました。{who}さんの趣味は{hobby}です。"
    ask, answer = rng.choice(
        [
            ("誰の話ですか。", f"{who}さんの話です。"),
            ("どこへ行きましたか。", f"{place}へ行きました。"),
            ("いつ行きましたか。", f"{day}に行きました。"),
            ("何を買いましたか。", f"{food}を買いました。"),
            ("趣味は何ですか。", f"{hobby}です。"),
        ]
    )
    return f"{text}\n{ask}", answer


_JOBS = [
    "先生",
    "医者",
    "料理人",
    "店員",
    "案内係",
    "画家",
    "歌手",
    "漁師",
    "農家",
    "駅員",
    "図書館の人",
    "大工",
]
_TRAITS = [
    "やさしい",
    "元気な",
    "まじめな",
    "明るい",
    "静かな",
    "ゆかいな",
    "親切な",
    "物知りな",
    "正直な",
    "のんびりした",
]


def persona(rng: Random) -> Messages:
    """The system turn names a character, and the answers keep to it."""
    name, job, trait = rng.choice(NAMES), rng.choice(_JOBS), rng.choice(_TRAITS)
    place, food = rng.choice(PLACES), rng.choice(_FOODS)
    system = rng.choice(
        [
            f"あなたは{trait}{job}の{name}です。{place}に住んでいて、{food}が好きです。",
            f"{name}として答えてください。{name}は{place}の{trait}{job}で、好きな物は{food}です。",
            f"名前: {name}\n仕事: {job}\n性格: {trait}\n住所: {place}\n好きな物: {food}",
        ]
    )
    pairs = [
        (
            rng.choice(["あなたは誰ですか。", "自己紹介をしてください。"]),
            f"私は{trait}{job}の{name}です。",
        ),
        (rng.choice(["お名前は？", "あなたの名前は何ですか。"]), f"私の名前は{name}です。"),
        (rng.choice(["仕事は何ですか。", "何をしている人ですか。"]), f"私は{job}です。"),
        (rng.choice(["どこに住んでいますか。", "家はどこ？"]), f"{place}に住んでいます。"),
        (rng.choice(["好きな物は何ですか。", "何が好き？"]), f"{food}が好きです。"),
    ]
    return turns(*rng.sample(pairs, rng.randint(1, 3)), system=system)


_ENDINGS = [
    ("にゃ", "猫"),
    ("わん", "犬"),
    ("ござる", "侍"),
    ("ぴょん", "うさぎ"),
    ("だモー", "牛"),
    ("でちゅ", "赤ちゃん"),
]


def manner(rng: Random) -> Messages:
    """The system turn asks for a manner of speaking: an ending, one word, loudly, twice."""
    question, answer = pick(rng, KNOWLEDGE[:20] + _TALK)
    if "\n" in answer:
        question, answer = greeting(rng)
    ending, animal = rng.choice(_ENDINGS)
    form = rng.randrange(4)
    if form == 0:
        system = rng.choice(
            [
                f"文の終わりに「{ending}」をつけて答えてください。",
                f"あなたは{animal}です。語尾は「{ending}」です。",
            ]
        )
        answer = answer.replace("。", f"{ending}。")
    elif form == 1:
        system = rng.choice(["答えを二回くり返してください。", "同じことを二回言ってください。"])
        answer = answer + answer
    elif form == 2:
        opening = rng.choice(
            ["はい、先生。", "お答えします。", "ふむふむ。", "よし。", "えっと、", "なるほど。"]
        )
        system = f"答えの最初に必ず「{opening}」と言ってください。"
        answer = opening + answer
    else:
        sign = rng.choice(["！", "♪", "…", "☆"])
        system = f"文の終わりには「。」ではなく「{sign}」を使ってください。"
        answer = answer.replace("。", sign)
    return turns((question, answer), system=system)


def remembering(rng: Random) -> Messages:
    name, food, place = rng.choice(NAMES), rng.choice(_FOODS), rng.choice(PLACES)
    told, asked = rng.choice(
        [
            ((f"私の名前は{name}です。", f"はじめまして、{name}さん。"), ("私の名前は何ですか。", f"あなたの名前は{name}さんです。")),
            ((f"私は{food}が好きです。", f"{food}が好きなのですね。"), ("私の好きな物は何ですか。", f"あなたの好きな物は{food}です。")),
            ((f"私は{place}に住んでいます。", f"{place}に住んでいるのですね。"), ("私はどこに住んでいますか。", f"あなたは{place}に住んでいます。")),
        ]
    )  # fmt: skip
    between = [pick(rng, KNOWLEDGE + _TALK) for _ in range(rng.randint(0, 2))]
    return turns(told, *between, asked)


def _tool(name: str, description: str, parameters: dict[str, str]) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema},
    }


TOOLS = [
    _tool("get_weather", "町の天気を調べる", {"city": "string"}),
    _tool("add", "二つの数を足す", {"a": "integer", "b": "integer"}),
    _tool("find_animal", "動物のいる所を調べる", {"name": "string"}),
]


def tool_use(rng: Random) -> tuple[Messages, list[dict[str, Any]]]:
    place, animal = rng.choice(PLACES), rng.choice(ANIMALS)
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    weather = rng.choice(["晴れ", "雨", "くもり", "雪"])
    name, arguments, question, result, answer = rng.choice(
        [
            ("get_weather", {"city": place}, f"{place}の天気を調べて。", {"weather": weather},
             f"{place}の天気は{weather}です。"),
            ("add", {"a": a, "b": b}, f"{a}と{b}を足して。", {"sum": a + b}, f"答えは{a + b}です。"),
            ("find_animal", {"name": animal.word}, f"{animal.word}のいる所を調べて。",
             {"place": animal.place}, f"{animal.word}は{animal.place}にいます。"),
        ]
    )  # fmt: skip
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    content = json.dumps(result, ensure_ascii=False)
    messages: Messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": content},
        {"role": "assistant", "content": answer},
    ]
    tools = [tool for tool in TOOLS if tool["function"]["name"] == name]
    others = [tool for tool in TOOLS if tool["function"]["name"] != name]
    tools += rng.sample(others, rng.randint(0, 1))
    rng.shuffle(tools)
    return messages, tools


_TALK = [
    (greeting, 1.5), (identity, 1.5), (feeling, 1.2), (refusal, 1.2), (small_talk, 0.8),
    (liking, 1.5), (advice, 1.2),
]  # fmt: skip
COPYING = [(copying, 2.5), (list_work, 2.5), (reading, 2.0)]
TURNS = KNOWLEDGE + _TALK + COPYING
