// openai-node against a running server: node client.mjs BASE_URL. Prints one JSON line of verdicts.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "7+2*3-4+5*6-1" }];
// Numbers that the embedded policy never saw: its search takes a while.
const unknown = [{ role: "user", content: "12+17*3-14+25*6-11+13" }];
const verdicts = {};
const check = async (name, work) => {
  try {
    verdicts[name] = await work();
  } catch (error) {
    verdicts[name] = `${error.constructor.name}: ${error.message}`;
  }
};

await check("models", async () => (await client.models.list()).data.some((m) => m.id === "latest:mcts"));
await check("chat", async () => {
  const found = await client.chat.completions.create({ model: "latest:mcts", messages });
  return found.choices[0].message.content.endsWith("38") && found.search.answer === "38";
});
await check("stream", async () => {
  const stream = await client.chat.completions.create({
    model: "latest:mcts",
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let usage = null;
  for await (const part of stream) {
    text += part.choices[0]?.delta?.content ?? "";
    usage = part.usage ?? usage;
  }
  return text.endsWith("38") && usage.total_tokens > 0;
});
await check("completions", async () => {
  const found = await client.completions.create({ model: "latest", prompt: "7+2*3\n", max_tokens: 4, temperature: 0 });
  return found.choices[0].text.startsWith("7+6");
});
const raises = async (body, kind) => {
  try {
    await client.chat.completions.create(body);
    return false;
  } catch (error) {
    return error instanceof kind && Boolean(error.code);
  }
};
await check("bad request", () => raises({ model: "latest", messages: [] }, OpenAI.BadRequestError));
await check("not found", () => raises({ model: "none", messages }, OpenAI.NotFoundError));
await check("unsupported", () =>
  raises({ model: "latest", messages, logit_bias: { 5: 1 } }, OpenAI.BadRequestError),
);
await check("abort", async () => {
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 50);
  try {
    await client.chat.completions.create(
      { model: "latest:mcts", messages: unknown, search: { simulations: 4096 } },
      { signal: stop.signal },
    );
    return "answered before it was aborted";
  } catch (error) {
    return error instanceof OpenAI.APIUserAbortError;
  }
});
console.log(JSON.stringify(verdicts));
