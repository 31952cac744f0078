// A file that fal's own client for Node sends in parts, and what is heard in it; prints one JSON object. Arguments: the
// folder that the client is installed in, the server, a file with sound, and a key.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [, , folder, server, path, credentials] = process.argv;
const { createFalClient } = createRequire(`${folder}/`)("@fal-ai/client");
const fal = createFalClient({
  credentials,
  proxyUrl: { url: `${server}/api/fal/proxy`, when: "always" },
});
const sound = [readFileSync(path), new Uint8Array(91 * 1024 * 1024)];
const address = await fal.storage.upload(new File(sound, "film.wav", { type: "audio/wav" }));
const { data } = await fal.run("nvidia/nemotron-asr-multilingual/asr", { input: { audio_url: address } });
console.log(JSON.stringify({ address, data }));
