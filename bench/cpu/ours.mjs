// One measurement of this library, through its public API. QWEN3_LIBRARY: lib/index.js.
import { createRequire } from 'node:module'
import { job, memory, prompt, rate, report, Track } from './measure.mjs'

const { Qwen3 } = createRequire(import.meta.url)(process.env.QWEN3_LIBRARY)
const { model: name, threads, kind, context, tokens, batch, repeats, vocab, options } = job()
const greedy = { temperature: 0, ignoreEos: true }

const begin = performance.now()
const model = await Qwen3.load(name, {
  device: 'cpu',
  threads,
  contextLength: context + tokens + 1,
  maxSequences: batch,
  kvCacheBytes: cacheBytes(batch),
  ...options,
})
const loadMs = performance.now() - begin

/** Keys and values of `n` sequences, in whole blocks of 64 tokens and one to spare. */
function cacheBytes(n) {
  const blocks = Math.ceil((context + tokens + 1) / 64) + 1
  return n * blocks * Number(process.env.QWEN3_BLOCK_BYTES)
}

/** Milliseconds to the first token. */
async function firstToken(ids) {
  const start = performance.now()
  await model.generate(ids, { ...greedy, maxTokens: 1 }).result()
  return performance.now() - start
}

/**
 * Most ids of a synthetic vocabulary have no text, so events do not show when a token came: the first one's time is the
 * library's own, the last one's is when the result is here.
 */
async function decode(ids) {
  const track = new Track()
  const start = performance.now()
  const stream = model.generate(ids, { ...greedy, maxTokens: tokens })
  for await (const event of stream) if (event.type === 'done') break
  const { usage } = await stream.result()
  track.add(1, start + usage.timings.firstTokenMs)
  track.add(usage.completionTokens)
  return track
}

const values = []
if (kind === 'load') {
  values.push(await firstToken(prompt(16, vocab, 1)))
  await decode(prompt(context, vocab, 2))
} else if (kind === 'prefill') {
  await firstToken(prompt(Math.min(context, 256), vocab, 1))
  for (let i = 0; i < repeats; i++) values.push((1000 * context) / (await firstToken(prompt(context, vocab, 2 + i))))
} else {
  const prompts = Array.from({ length: batch }, (_, i) => prompt(context, vocab, 2 + i))
  // The prompts are in the prefix cache afterwards, so that all sequences begin together.
  for (const ids of prompts) await firstToken(ids)
  for (let i = 0; i < repeats; i++) values.push(rate(await Promise.all(prompts.map(decode))))
}
report({ values, loadMs, memory: memory() })
await model.close()
