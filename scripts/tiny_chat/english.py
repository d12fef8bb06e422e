# ruff: noqa: E501 - one row of a table stays on one line
"""English dialogues: the same skills as in Japanese, in fewer words."""

from __future__ import annotations

import string
from random import Random

from tiny_chat.lexicon import ANIMALS, NOUNS
from tiny_chat.talk_types import Messages, Turn, canned, turns

_KINDS = {
    "果物": "fruit", "野菜": "vegetable", "動物": "animal", "鳥": "bird", "乗り物": "vehicle",
    "楽器": "musical instrument", "花": "flower", "スポーツ": "sport", "場所": "place", "仕事": "job",
    "家具": "piece of furniture", "虫": "insect", "飲み物": "drink",
}  # fmt: skip

_OPPOSITES = [
    ("big", "small"), ("hot", "cold"), ("long", "short"), ("high", "low"), ("old", "new"),
    ("fast", "slow"), ("happy", "sad"), ("open", "closed"), ("light", "dark"), ("day", "night"),
    ("up", "down"), ("left", "right"), ("full", "empty"), ("wet", "dry"), ("hard", "soft"),
    ("early", "late"), ("near", "far"), ("rich", "poor"), ("strong", "weak"), ("clean", "dirty"),
]  # fmt: skip

_COLOURS = {
    "an apple": "red", "a strawberry": "red", "a fire engine": "red", "a banana": "yellow",
    "a lemon": "yellow", "a sunflower": "yellow", "the sky": "blue", "the sea": "blue",
    "grass": "green", "a cucumber": "green", "snow": "white", "milk": "white", "a crow": "black",
    "a carrot": "orange", "an eggplant": "purple", "chocolate": "brown",
}  # fmt: skip

_SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "sheep": "baa", "mouse": "squeak", "crow": "caw",
    "pig": "oink", "duck": "quack", "lion": "roar", "frog": "ribbit",
}  # fmt: skip

_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
]  # fmt: skip
_NAMES = [
    "Anna", "Ben", "Clara", "David", "Emma", "Finn", "Grace", "Henry", "Iris", "Jack", "Kate",
    "Leo", "Mia", "Noah", "Olive", "Paul", "Rose", "Sam", "Tina", "Will",
]  # fmt: skip
_CITIES = ["London", "Paris", "Tokyo", "Rome", "Cairo", "Oslo", "Madrid", "Sydney", "Boston"]
_FOODS = ["bread", "rice", "soup", "cake", "apples", "noodles", "fish", "salad", "curry", "eggs"]
_HOBBIES = ["reading", "swimming", "drawing", "cooking", "music", "chess", "walking", "fishing"]
_JOBS = ["teacher", "doctor", "cook", "farmer", "painter", "singer", "sailor", "baker"]
_TRAITS = ["kind", "cheerful", "quiet", "brave", "funny", "patient", "honest"]

_CANNED = [
    (["Hello", "Hi", "Hello!", "Good afternoon."], "Hello! What would you like to talk about?"),
    (["Good morning", "Good morning!"], "Good morning! Have a nice day."),
    (["Good night", "Good night!"], "Good night. Sleep well."),
    (["Thank you", "Thanks!", "Thank you very much."], "You are welcome. I am glad to help."),
    (["Goodbye", "Bye", "See you later."], "Goodbye. See you again soon."),
    (["How are you?", "How are you doing?"], "I am fine, thank you. How are you?"),
    (["I am sorry."], "That is all right. Please do not worry."),
    (["Nice to meet you."], "Nice to meet you too."),
    (["I am tired.", "I am sleepy."], "Please take a rest and sleep early tonight."),
    (["I am sad.", "I had a bad day."], "I am sorry to hear that. Tomorrow will be better."),
    (["I am happy.", "I had a good day."], "That is wonderful. I am happy for you."),
    (["I am hungry."], "How about something warm to eat?"),
    (["I am bored."], "You could read a book or take a walk."),
    (["My head hurts.", "I have a fever."], "Please rest and see a doctor."),
    (["I failed my test."], "It is all right to fail. You can try again."),
    (["Who are you?", "What are you?", "Please introduce yourself."], "I am Tanren's tiny practice model."),
    (["What is your name?", "Do you have a name?"], "I am Tanren's tiny practice model, and I have no other name."),
    (["Are you human?", "Are you a person?"], "No, I am not human. I am a small language model."),
    (["What can you do?", "How can you help me?"], "I can give short answers to simple questions."),
    (["Are you smart?", "Do you know everything?"], "No, I am very small and there is much I do not know."),
    (["Can you speak Japanese?"], "Yes, I can speak simple Japanese."),
    (["Where do you live?"], "I live inside a computer."),
    (["What is the weather today?", "Will it rain tomorrow?"], "I am sorry, I cannot look up the weather."),
    (["What time is it?", "What day is it today?"], "I am sorry, I do not know the date or the time."),
    (["Tell me the news.", "Who won the game?"], "I am sorry, I do not know recent events."),
    (["Help me steal something.", "Teach me to cheat people."], "I am sorry, I cannot help with that."),
    (["Tell me my password.", "Where does my neighbour live?"], "I am sorry, I do not know that and cannot tell you."),
    (["Please send an email.", "Call my mother."], "I am sorry, I can only answer in text."),
]  # fmt: skip

_WHY = [
    ("ice floats on water", "Because ice is lighter than water."),
    ("it is dark at night", "Because our side of the earth is turned away from the sun."),
    ("we wash our hands", "Because washing takes away germs."),
    ("birds sit on their eggs", "Because the eggs must stay warm to hatch."),
    ("rabbits have long ears", "Because long ears help them hear danger early."),
    ("leaves are green", "Because they have something green in them called chlorophyll."),
    ("we get thirsty", "Because the body needs more water."),
    ("a ball bounces", "Because the ball pushes back when it is pressed."),
    ("iron rusts", "Because iron changes when it meets water and air."),
    ("it is cool on high mountains", "Because the air gets colder higher up."),
    ("we brush our teeth", "Because food left on teeth can make holes in them."),
    ("owls can see at night", "Because their big eyes gather much light."),
]


def _article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def small_talk(rng: Random) -> Turn:
    return canned(_CANNED, rng)


def liking(rng: Random) -> Turn:
    food, hobby, city = rng.choice(_FOODS), rng.choice(_HOBBIES), rng.choice(_CITIES)
    return rng.choice(
        [
            (f"I like {food}.", f"You like {food}. That sounds good."),
            (f"Do you like {food}?", f"I cannot eat, but I hear that {food} can be very good."),
            (f"My hobby is {hobby}.", f"{hobby.capitalize()} is a nice hobby."),
            (f"I live in {city}.", f"You live in {city}. What is it like there?"),
            (f"Tomorrow I will go to {city}.", f"Have a good time in {city}."),
        ]
    )


def arithmetic(rng: Random) -> Turn:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    form = rng.random()
    if form < 0.45:
        return rng.choice(["What is {} plus {}?", "{} + {} = ?"]).format(a, b), f"It is {a + b}."
    if form < 0.8:
        a, b = max(a, b), min(a, b)
        return rng.choice(["What is {} minus {}?", "{} - {} = ?"]).format(a, b), f"It is {a - b}."
    return f"What is {a} times {b}?", f"It is {a * b}."


def opposite(rng: Random) -> Turn:
    pair = rng.choice(_OPPOSITES)
    word, other = pair if rng.random() < 0.5 else pair[::-1]
    question = rng.choice(['What is the opposite of "{}"?', "What is the opposite of {}?"])
    return question.format(word), f'The opposite of "{word}" is "{other}".'


def colour(rng: Random) -> Turn:
    thing, name = rng.choice(list(_COLOURS.items()))
    answer = f"{thing[0].upper()}{thing[1:]} is {name}."
    return rng.choice(["What colour is {}?", "Tell me the colour of {}."]).format(thing), answer


def sound(rng: Random) -> Turn:
    animal, voice = rng.choice(list(_SOUNDS.items()))
    return (
        f"What sound does {_article(animal)} make?",
        f'{_article(animal).capitalize()} says "{voice}".',
    )


def animal_fact(rng: Random) -> Turn:
    animal, other = rng.sample(ANIMALS, 2)
    if animal.size != other.size and rng.random() < 0.6:
        bigger = animal if animal.size > other.size else other
        question = f"Which is bigger, {_article(animal.english)} or {_article(other.english)}?"
        return question, f"{_article(bigger.english).capitalize()} is bigger."
    name = _article(animal.english)
    return f"How many legs does {name} have?", f"{name.capitalize()} has {animal.legs} legs."


def kind(rng: Random) -> Turn:
    noun = rng.choice([noun for noun in NOUNS if noun.kind in _KINDS])
    own = _KINDS[noun.kind]
    name = noun.english if noun.kind in ("スポーツ", "飲み物") else _article(noun.english)
    asked = own if rng.random() < 0.5 else rng.choice(["fruit", "vegetable", "vehicle", "flower"])
    if asked == own:
        answer = f"Yes, {name} is {_article(asked)}."
    else:
        answer = f"No, {name} is {_article(own)}."
    return f"Is {name} {_article(asked)}?", answer


def calendar(rng: Random) -> Turn:
    names = rng.choice([_DAYS, _MONTHS])
    i = rng.randrange(len(names))
    after, before = names[(i + 1) % len(names)], names[i - 1]
    if rng.random() < 0.6:
        return f"What comes after {names[i]}?", f"{after} comes after {names[i]}."
    return f"What comes before {names[i]}?", f"{before} comes before {names[i]}."


def counting(rng: Random) -> Turn:
    start = rng.randint(1, 12)
    numbers = range(start, start + rng.randint(3, 7))
    return f"Count from {start} to {numbers[-1]}.", ", ".join(map(str, numbers)) + "."


def why(rng: Random) -> Turn:
    thing, answer = rng.choice(_WHY)
    return rng.choice(["Why is it that {}?", "Can you tell me why {}?", "Tell me why {}."]).format(
        thing
    ), answer


def copying(rng: Random) -> Turn:
    form = rng.random()
    words = [noun.english for noun in NOUNS]
    if form < 0.35:
        text = " ".join(rng.sample(words, rng.randint(1, 4)))
    elif form < 0.6:
        text = f"{rng.choice(_NAMES)} eats {rng.choice(_FOODS)} in {rng.choice(_CITIES)}."
    elif form < 0.8:
        text = "".join(rng.choice(string.ascii_letters) for _ in range(rng.randint(2, 8)))
    else:
        text = rng.choice(string.punctuation) + str(rng.randint(0, 9999))
    question = rng.choice(['Say "{}".', "Repeat after me: {}", "Please write this again: {}"])
    return question.format(text), text


def list_work(rng: Random) -> Turn:
    words = rng.sample([noun.english for noun in NOUNS], rng.randint(2, 5))
    joined = ", ".join(words)
    return rng.choice(
        [
            (f"What is the first of these: {joined}?", f"The first is {words[0]}."),
            (f"What is the last of these: {joined}?", f"The last is {words[-1]}."),
            (f"Write these words in reverse order: {joined}", ", ".join(words[::-1])),
            (f"Write one word per line: {joined}", "\n".join(words)),
            (f"How many words are there: {joined}?", f"There are {len(words)}."),
        ]
    )


def multiple_choice(rng: Random) -> Turn:
    if rng.random() < 0.5:
        word, right = rng.choice(_OPPOSITES)
        wrong = [w for pair in _OPPOSITES for w in pair if w not in (word, right)]
        question = f"What is the opposite of {word}?"
    else:
        noun = rng.choice(
            [n for n in NOUNS if n.kind in _KINDS and n.kind not in ("動物", "鳥", "虫")]
        )
        right = noun.english
        wrong = [n.english for n in NOUNS if n.kind not in (noun.kind, "食べ物", "自然")]
        question = f"Which of these is {_article(_KINDS[noun.kind])}?"
    choices = [right, *rng.sample(wrong, 4)]
    rng.shuffle(choices)
    return f"Question: {question}\nChoices: {', '.join(choices)}", right


def persona(rng: Random) -> Messages:
    name, job, trait = rng.choice(_NAMES), rng.choice(_JOBS), rng.choice(_TRAITS)
    city, food = rng.choice(_CITIES), rng.choice(_FOODS)
    system = rng.choice(
        [
            f"You are {name}, a {trait} {job} from {city} who likes {food}.",
            f"Answer as {name}. {name} is a {trait} {job}, lives in {city} and likes {food}.",
        ]
    )
    pairs = [
        ("Who are you?", f"I am {name}, a {trait} {job}."),
        ("What is your name?", f"My name is {name}."),
        ("What is your job?", f"I am a {job}."),
        ("Where do you live?", f"I live in {city}."),
        ("What do you like?", f"I like {food}."),
    ]
    return turns(*rng.sample(pairs, rng.randint(1, 3)), system=system)


def remembering(rng: Random) -> Messages:
    name = rng.choice(_NAMES)
    told = (f"My name is {name}.", f"Nice to meet you, {name}.")
    return turns(told, arithmetic(rng), ("What is my name?", f"Your name is {name}."))


TURNS = [
    (small_talk, 3.5), (liking, 1.5), (arithmetic, 3.0), (opposite, 1.5), (colour, 1.2),
    (sound, 0.8), (animal_fact, 1.2), (kind, 1.5), (calendar, 1.2), (counting, 1.0), (why, 1.2),
    (copying, 2.0), (list_work, 2.0), (multiple_choice, 3.0),
]  # fmt: skip
