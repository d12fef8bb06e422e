// The same with Node's client: node node.cjs TRAIN.jsonl JOB MODEL
const fs = require("fs");
const OpenAI = require("openai");

async function main() {
  const [train, jobId, model] = process.argv.slice(2);
  const client = new OpenAI.OpenAI();
  const seen = { version: require("openai/version").VERSION };
  const caught = async (call) => {
    try {
      await call();
    } catch (error) {
      return error;
    }
  };

  const uploaded = await client.files.create({ file: fs.createReadStream(train), purpose: "fine-tune" });
  const back = Buffer.from(await (await client.files.content(uploaded.id)).arrayBuffer());
  seen.same_bytes = back.equals(fs.readFileSync(train));
  const unnamed = await OpenAI.toFile(Buffer.from("{}\n"), "upload");
  seen.unnamed = (await client.files.create({ file: unnamed, purpose: "fine-tune" })).filename;
  seen.listed = false;
  for await (const file of client.files.list()) seen.listed ||= file.id === uploaded.id;
  const wrong = await OpenAI.toFile(Buffer.from("x"), "x");
  seen.wrong_purpose = (await caught(() => client.files.create({ file: wrong, purpose: "foo" }))).param;
  seen.deleted = (await client.files.delete(uploaded.id)).deleted;
  const twice = await caught(() => client.files.delete(uploaded.id));
  seen.deleted_twice = twice instanceof OpenAI.NotFoundError ? twice.message : null;

  const job = await client.fineTuning.jobs.retrieve(jobId);
  seen.job = [job.status, job.fine_tuned_model, job.error === null, job.trained_tokens];
  seen.jobs = (await client.fineTuning.jobs.list({ limit: 1 })).data.length;
  seen.bare = (await client.fineTuning.jobs.list({ limit: 100, metadata: null })).data.every((each) => each.id !== jobId);
  seen.events = [];
  for await (const event of client.fineTuning.jobs.listEvents(jobId, { limit: 10 })) seen.events.push(event.id);
  const refused = { model: "nope", training_file: "file-nope" };
  seen.unknown_model = (await caught(() => client.fineTuning.jobs.create(refused))).code;
  seen.cancel_after_end = (await caught(() => client.fineTuning.jobs.cancel(jobId))).code;

  const messages = [{ role: "user", content: "太郎、傘を貸してくれる?" }];
  const asked = { model, messages, temperature: 0, max_tokens: 12 };
  const whole = await client.chat.completions.create(asked);
  seen.answer = whole.choices[0].message.content;
  seen.usage = whole.usage.total_tokens === whole.usage.prompt_tokens + whole.usage.completion_tokens;
  seen.streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true }))
    seen.streamed += chunk.choices[0]?.delta?.content ?? "";
  seen.unknown_chat_model = (await caught(() => client.chat.completions.create({ model: "ft:no", messages }))).code;
  seen.models = false;
  for await (const each of client.models.list()) seen.models ||= each.id === model;
  seen.model = (await client.models.retrieve(model)).id;
  console.log(JSON.stringify(seen));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
