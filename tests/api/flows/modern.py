"""What a script of 2024 or later does, in calls that every client from 1.12 on has.

    python modern.py TRAIN.jsonl JOB MODEL

Prints what it saw as one JSON document.
"""

import json
import pathlib
import sys

import openai

train, job_id, model = sys.argv[1:4]
client = openai.OpenAI()
seen = {"version": openai.__version__}

with open(train, "rb") as file:
    uploaded = client.files.create(file=file, purpose="fine-tune")
seen["same_bytes"] = client.files.content(uploaded.id).read() == pathlib.Path(train).read_bytes()
seen["unnamed"] = client.files.create(file=b"{}\n", purpose="fine-tune").filename
seen["listed"] = uploaded.id in [each.id for each in client.files.list()]
try:
    client.files.create(file=b"x", purpose="foo")
except openai.BadRequestError as error:
    seen["wrong_purpose"] = error.param
seen["deleted"] = client.files.delete(uploaded.id).deleted
try:
    client.files.delete(uploaded.id)
except openai.NotFoundError as error:
    seen["deleted_twice"] = error.message

job = client.fine_tuning.jobs.retrieve(job_id)
seen["job"] = [job.status, job.fine_tuned_model, job.error is None, job.trained_tokens]
seen["jobs"] = len(client.fine_tuning.jobs.list(limit=1).data)
events = client.fine_tuning.jobs.list_events(job_id, limit=10)
seen["events"] = [event.id for event in events]  # goes through the pages by itself
try:
    client.fine_tuning.jobs.create(model="nope", training_file="file-nope")
except openai.BadRequestError as error:
    seen["unknown_model"] = error.code
try:
    client.fine_tuning.jobs.cancel(job_id)
except openai.BadRequestError as error:
    seen["cancel_after_end"] = error.code

question = [{"role": "user", "content": "太郎、傘を貸してくれる?"}]
asked = {"model": model, "messages": question, "temperature": 0, "max_tokens": 12}
whole = client.chat.completions.create(**asked)
seen["answer"] = whole.choices[0].message.content
seen["usage"] = (
    whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
)
chunks = list(client.chat.completions.create(stream=True, **asked))
seen["streamed"] = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
try:
    client.chat.completions.create(model="ft:no", messages=question)
except openai.NotFoundError as error:
    seen["unknown_chat_model"] = error.code
seen["models"] = model in [each.id for each in client.models.list()]
seen["model"] = client.models.retrieve(model).id
print(json.dumps(seen, ensure_ascii=False))
