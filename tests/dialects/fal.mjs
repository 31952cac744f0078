// What fal's own client for Node gets; prints one JSON object. Arguments: the folder that the client is installed in,
// the server, a file with sound, where webhooks go, and a key.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , folder, server, path, webhookUrl, credentials] = process.argv;
const { createFalClient } = createRequire(`${folder}/`)("@fal-ai/client");
const app = "nvidia/nemotron-asr-multilingual/asr";
const fal = createFalClient({
  credentials,
  proxyUrl: { url: `${server}/api/fal/proxy`, when: "always" },
});
const sound = readFileSync(path);
const dataUri = `data:audio/wav;base64,${sound.toString("base64")}`;
const told = {};

const address = await fal.storage.upload(new File([sound], "my speech.wav", { type: "audio/wav" }));
told.address = address;

const updates = [];
const logs = [];
const subscribed = await fal.subscribe(app, {
  input: { audio_url: address, language: "en-US" },
  logs: true,
  pollInterval: 50,
  onQueueUpdate: (update) => {
    updates.push(update.status);
    if (update.status === "IN_PROGRESS") update.logs.map((log) => log.message).forEach((line) => logs.push(line));
  },
});
told.subscribed = { data: subscribed.data, requestId: subscribed.requestId, updates, logs };

const { request_id } = await fal.queue.submit(app, { input: { audio_url: dataUri }, webhookUrl });
let status;
do {
  status = await fal.queue.status(app, { requestId: request_id, logs: true });
} while (status.status !== "COMPLETED");
const result = await fal.queue.result(app, { requestId: request_id });
told.queued = { data: result.data, requestId: result.requestId, expected: request_id, logs: status.logs };

const statuses = [];
const followed = await fal.queue.submit(app, { input: { audio_url: dataUri } });
const changes = await fal.queue.streamStatus(app, { requestId: followed.request_id, logs: true });
for await (const change of changes) statuses.push(change.status);
await changes.done();
told.statuses = statuses;

const stream = await fal.stream(app, { input: { audio_url: dataUri, acceleration: "high" } });
const events = [];
for await (const event of stream) events.push(event);
told.streamed = { events, done: await stream.done() };

told.ran = (await fal.run("fal-ai/whisper", { input: { audio_url: dataUri, chunk_level: "word" } })).data;

try {
  await fal.run(app, { input: { language: "xx" } });
} catch (error) {
  told.refused = { name: error.name, status: error.status, body: error.body };
}

const cancelled = await fal.queue.submit(app, { input: { audio_url: dataUri } });
try {
  await fal.queue.cancel(app, { requestId: cancelled.request_id });
  told.cancelled = "requested";
} catch (error) {
  told.cancelled = error.status;
}

console.log(JSON.stringify(told));
