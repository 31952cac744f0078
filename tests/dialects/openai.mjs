// What OpenAI's own client for Node makes of this server, as JSON. Arguments: its folder, base URL, media file.
import fs from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, baseURL, media] = process.argv.slice(2);
const found = createRequire(pathToFileURL(folder + "/")).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(found));
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const hear = (fields) =>
  client.audio.transcriptions.create({
    file: fs.createReadStream(media),
    model: "ggml-demo",
    language: "en",
    ...fields,
  });

const told = {};
told.json = await hear({ include: ["logprobs"] });
told.text = await hear({ response_format: "text" });
told.verbose = await hear({ response_format: "verbose_json", timestamp_granularities: ["word", "segment"] });
told.chunks = await hear({
  response_format: "verbose_json",
  chunking_strategy: { type: "server_vad", silence_duration_ms: 400 },
});
told.hinted = await hear({ language: undefined, languages: ["en", "de"], keywords: ["London"] });
told.events = [];
for await (const event of await hear({ stream: true })) told.events.push(event);
told.translation = await client.audio.translations.create({ file: fs.createReadStream(media), model: "demo" });
told.models = (await client.models.list()).data;
told.model = await client.models.retrieve("ggml-demo");
told.errors = [];
for (const wrong of [
  () => client.models.retrieve("nvidia/parakeet"),
  () => client.models.delete("nvidia/parakeet"),
  () => hear({ model: "nope" }),
  () => hear({ response_format: "diarized_json" }),
  () => hear({ stream: true, temperature: 7 }),
]) {
  try {
    await wrong();
    told.errors.push(null);
  } catch (error) {
    const { status, code, param, type, message } = error;
    told.errors.push({ status, code, param, type, message });
  }
}
console.log(JSON.stringify(told));
