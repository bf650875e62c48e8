// Next-token distributions of texts through node-llama-cpp: for each position that counts, the logarithms of all
// probabilities, f32, one row after the other in `out`.
import { closeSync, openSync, writeSync } from 'node:fs'
import { getLlama } from 'node-llama-cpp'

/** @type {{ model: string, texts: { ids: number[], begin: number }[], vocab: number, out: string, threads: number }} */
const { model: file, texts, vocab, out, threads } = JSON.parse(process.argv[2])
const everything = { temperature: 1, topK: 0, topP: 1, minP: 0 }

const llama = await getLlama({
  gpu: false,
  build: 'never',
  progressLogs: false,
  logLevel: 'error',
  maxThreads: threads,
})
const model = await llama.loadModel({ modelPath: file })
const contextSize = Math.max(...texts.map(({ ids }) => ids.length)) + 8
const context = await model.createContext({ contextSize, threads: { ideal: threads, min: threads } })
const sequence = context.getSequence()
const target = openSync(out, 'w')
const row = new Float32Array(vocab)
for (const { ids, begin } of texts) {
  await sequence.clearHistory()
  // The last id is only ever predicted.
  const input = ids
    .slice(0, -1)
    .map((id, i) => (i < begin ? id : [id, { generateNext: { probabilities: true, options: everything } }]))
  await sequence.controlledEvaluate(input, {
    onTokenResult(index, { next }) {
      if (index < begin) return
      row.fill(-100)
      for (const [id, probability] of next.probabilities) row[id] = Math.log(Math.max(probability, 1e-40))
      writeSync(target, row)
    },
  })
}
closeSync(target)
await llama.dispose()
