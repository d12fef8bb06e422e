"""The same with the client of 2023 (0.28.1), in its spellings.

python legacy.py TRAIN.jsonl JOB MODEL
"""

import io
import json
import pathlib
import sys

import openai

train, job_id, model = sys.argv[1:4]
seen = {"version": openai.version.VERSION}

with open(train, "rb") as file:
    uploaded = openai.File.create(file=file, purpose="fine_tune")
seen["same_bytes"] = openai.File.download(uploaded["id"]) == pathlib.Path(train).read_bytes()
with open(train, "rb") as file:
    named = openai.File.create(file=file, purpose="fine-tune", user_provided_filename="日本.jsonl")
seen["unnamed"] = uploaded["filename"]
seen["named"] = named["filename"]
seen["listed"] = uploaded["id"] in [each["id"] for each in openai.File.list()["data"]]
try:
    openai.File.create(file=io.BytesIO(b"x"), purpose="foo")
except openai.error.InvalidRequestError as error:
    seen["wrong_purpose"] = error.param
seen["deleted"] = openai.File.delete(uploaded["id"])["deleted"]
try:
    openai.File.delete(uploaded["id"])
except openai.error.InvalidRequestError as error:
    seen["deleted_twice"] = error.user_message

job = openai.FineTuningJob.retrieve(job_id)
seen["job"] = [job["status"], job["fine_tuned_model"], job["error"] is None, job["trained_tokens"]]
seen["jobs"] = len(openai.FineTuningJob.list(limit=1)["data"])
seen["pages"] = job_id in [each["id"] for each in openai.FineTuningJob.auto_paging_iter(limit=2)]
seen["events"], after = [], {}
while True:
    events = openai.FineTuningJob.list_events(id=job_id, limit=10, **after)
    seen["events"] += [event["id"] for event in events["data"]]
    if not events["has_more"]:
        break
    after = {"starting_after": events["data"][-1]["id"]}
try:
    openai.FineTuningJob.create(model="nope", training_file="file-nope")
except openai.error.InvalidRequestError as error:
    seen["unknown_model"] = error.code
try:
    openai.FineTuningJob.cancel(job_id)
except openai.error.InvalidRequestError as error:
    seen["cancel_after_end"] = error.code
try:
    openai.FineTuningJob.delete(job_id)
except openai.error.APIError as error:
    seen["delete_job"] = error.http_status

question = [{"role": "user", "content": "太郎、傘を貸してくれる?"}]
asked = {"model": model, "messages": question, "temperature": 0, "max_tokens": 12}
whole = openai.ChatCompletion.create(**asked)
seen["answer"] = whole["choices"][0]["message"]["content"]
usage = whole["usage"]
seen["usage"] = usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
chunks = list(openai.ChatCompletion.create(stream=True, **asked))
seen["streamed"] = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
try:
    openai.ChatCompletion.create(model="ft:no", messages=question)
except openai.error.InvalidRequestError as error:
    seen["unknown_chat_model"] = error.code
seen["models"] = model in [each["id"] for each in openai.Model.list()["data"]]
seen["model"] = openai.Model.retrieve(model)["id"]
print(json.dumps(seen, ensure_ascii=False))
