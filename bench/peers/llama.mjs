// One measurement of node-llama-cpp, through its public API.
import { existsSync, renameSync } from 'node:fs'
import { getLlama } from 'node-llama-cpp'
import { job, memory, prompt, rate, report, Track } from '../cpu/measure.mjs'

const { model: file, threads, kind, context, tokens, batch, repeats, vocab, options } = job()
const { flashAttention, batchSize = 512, stateFile } = options

const begin = performance.now()
const llama = await getLlama({
  gpu: false,
  build: 'never',
  progressLogs: false,
  logLevel: 'error',
  maxThreads: threads,
})
const model = await llama.loadModel({ modelPath: file })
const llamaContext = await model.createContext({
  contextSize: context + tokens + 1,
  sequences: batch,
  batchSize: Math.max(batchSize, batch),
  threads: { ideal: threads, min: threads },
  flashAttention,
})
const loadMs = performance.now() - begin
const sequences = Array.from({ length: batch }, () => llamaContext.getSequence())

/** Milliseconds to the first token. */
async function firstToken(sequence, ids) {
  await sequence.clearHistory()
  const start = performance.now()
  for await (const _ of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) break
  return performance.now() - start
}

/** `count` tokens after the prompt, whose last token is evaluated here. */
async function decode(sequence, last) {
  const track = new Track()
  let count = 0
  for await (const _ of sequence.evaluate([last], { temperature: 0, yieldEogToken: true })) {
    track.add(++count)
    if (count === tokens) break
  }
  return track
}

/** All of prompt `i` but its last token; kept in a file for the next process: an hour of prefill would be most of the run. */
async function fill(i) {
  const sequence = sequences[i]
  const rest = prompt(context, vocab, 2 + i).slice(0, -1)
  if (!stateFile) return sequence.evaluateWithoutGeneratingNewTokens(rest)
  const path = `${stateFile}-${i}`
  if (existsSync(path)) return sequence.loadStateFromFile(path, { acceptRisk: true })
  await sequence.evaluateWithoutGeneratingNewTokens(rest)
  await sequence.saveStateToFile(`${path}.part`)
  renameSync(`${path}.part`, path)
}

/** The token that the generation after prompt `i` begins with. */
const lastToken = (i) => prompt(context, vocab, 2 + i).at(-1)

const values = []
if (kind === 'load') {
  values.push(await firstToken(sequences[0], prompt(16, vocab, 1)))
  await sequences[0].clearHistory()
  await fill(0)
  await decode(sequences[0], lastToken(0))
} else if (kind === 'prefill') {
  await firstToken(sequences[0], prompt(Math.min(context, 256), vocab, 1))
  for (let i = 0; i < repeats; i++)
    values.push((1000 * context) / (await firstToken(sequences[0], prompt(context, vocab, 2 + i))))
} else {
  for (const i of sequences.keys()) await fill(i)
  for (let repeat = 0; repeat < repeats; repeat++) {
    values.push(rate(await Promise.all(sequences.map((sequence, i) => decode(sequence, lastToken(i))))))
    for (const sequence of sequences)
      await sequence.eraseContextTokenRanges([{ start: context - 1, end: sequence.nextTokenIndex }])
  }
}
report({ values, loadMs, memory: memory() })
await llama.dispose()
