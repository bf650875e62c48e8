#!/usr/bin/env node
// What Node sees of a GPU, through the public API of the built package (dist): prints one JSON object.
//
//   node bench/node-gpu.mjs [--models random:qwen3-0.6b,random:qwen3-8b] [--streams 1,8,64] [--tokens 128] [--prompt 8192]
//     [--seconds 60]
//
// For nano and nano-moe: whether greedy text on 'cuda' is that of 'cpu', and a problem answered at three budgets. For each of
// --models: time to load, prompt tokens per second of one prompt, tokens per second of so many streams at once (medians of three
// rounds after one to warm up). No model begins after --seconds.
import { parseArgs } from 'node:util'
import { Qwen3 } from '../dist/lib/index.mjs'

const { values: flags } = parseArgs({
  options: {
    models: { type: 'string', default: 'random:qwen3-0.6b,random:qwen3-4b,random:qwen3-8b,random:qwen3-30b-a3b' },
    streams: { type: 'string', default: '1,8,64' },
    tokens: { type: 'string', default: '128' },
    prompt: { type: 'string', default: '8192' },
    seconds: { type: 'string', default: '60' },
  },
})
const tokens = Number(flags.tokens)
const problem = 'Tom has 12 apples. Day 1: he buys 30. Day 2: he loses 7. How many apples does Tom have now?'
const began = performance.now()
const seconds = () => (performance.now() - began) / 1000

async function embedded(name) {
  const cpu = await Qwen3.load(name, { device: 'cpu', contextLength: 1024 })
  const auto = await Qwen3.load(name, { contextLength: 1024 })
  const greedy = { temperature: 0, maxTokens: tokens, thinking: true }
  const [wanted, got] = await Promise.all([cpu, auto].map((model) => model.chat(problem, greedy).result()))
  const answers = {}
  for (const thinkingBudget of [0, 64, 256]) {
    const { text } = await auto.chat(problem, { thinkingBudget, seed: 1, temperature: 0 }).result()
    answers[thinkingBudget] = text.trim()
  }
  await cpu.close()
  await auto.close()
  return { device: auto.info.device, same: got.thinking === wanted.thinking && got.text === wanted.text, answers }
}

async function speed(name) {
  const loading = performance.now()
  const streams = flags.streams.split(',').map(Number)
  const length = Number(flags.prompt)
  const contextLength = Math.max(2048, length + 1)
  const model = await Qwen3.load(name, { device: 'cuda', contextLength, maxSequences: Math.max(...streams) })
  const result = { loadSeconds: (performance.now() - loading) / 1000, prompt: {}, tokensPerSecond: {} }
  const prompts = []
  for (let round = 0; round < 4; round++) {
    // Another one each time: nothing of it is in the prefix cache.
    const ids = Array.from({ length }, (_, i) => 1000 + ((i * 7919 + round * 104_729) % 100_000))
    const begin = performance.now()
    await model.generate(ids, { maxTokens: 1, ignoreEos: true }).result()
    prompts.push(length / ((performance.now() - begin) / 1000))
  }
  result.prompt[length] = prompts.slice(1).sort((a, b) => a - b)[1]
  for (const n of streams) {
    const rates = []
    for (let round = 0; round < 4; round++) {
      const read = (seed) => model.generate(problem, { maxTokens: tokens, ignoreEos: true, seed }).result()
      const begin = performance.now()
      await Promise.all(Array.from({ length: n }, (_, i) => read(round * n + i)))
      rates.push((n * tokens) / ((performance.now() - begin) / 1000))
    }
    result.tokensPerSecond[n] = rates.slice(1).sort((a, b) => a - b)[1]
  }
  await model.close()
  return result
}

const report = { node: process.version, embedded: {}, models: {} }
for (const name of ['nano', 'nano-moe']) report.embedded[name] = await embedded(name)
for (const name of flags.models.split(',').filter(Boolean)) {
  if (seconds() > Number(flags.seconds)) report.models[name] = { skipped: 'no time was left' }
  else report.models[name] = await speed(name).catch((error) => ({ skipped: `${error.code}: ${error.message}` }))
}
process.stdout.write(`${JSON.stringify(report, undefined, 1)}\n`)
