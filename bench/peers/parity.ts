/**
 * The same model through llama.cpp (node-llama-cpp) and through qwen3, both in f32 with an f32 KV cache: greedy
 * continuations must be the same ids and the probabilities of the leading tokens within 1e-4.
 *
 *   npm run bench:peers:parity
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { getLlama, type Token } from 'node-llama-cpp'
import { Qwen3 } from '../../lib/index'
import { writeGguf } from '../models/gguf'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const STEPS = 48
const TOLERANCE = 1e-4

const questions = [
  'Tom has 12 apples. He buys 7 more and gives away 5. How many apples does he have?',
  'What is 47 + 38?',
  'Anna hat 20 Euro. Sie gibt 8 Euro aus. Wie viel Geld hat sie noch?',
  'Which is larger, 314 or 341?',
  '小明有15本书，他又买了6本。他现在有多少本书？',
  'hello',
]

interface Row {
  model: string
  prompt: string
  steps: number
  sameIds: boolean
  firstDifference: number
  largestProbabilityError: number
}

/** Greedy continuation with the leading probabilities of each step, from llama.cpp. */
async function peerContinuation(file: string, prompts: Int32Array[]) {
  const llama = await getLlama({ gpu: false, build: 'never', progressLogs: false, logLevel: 'error' as never })
  const model = await llama.loadModel({ modelPath: file })
  const out: { id: number; top: Map<number, number> }[][] = []
  for (const prompt of prompts) {
    const context = await model.createContext({
      contextSize: 1024,
      threads: 1, // spinning threads starve on a busy machine, and speed is not the question here
      flashAttention: false,
      experimentalKvCacheKeyType: 'F32',
      experimentalKvCacheValueType: 'F32',
    })
    const sequence = context.getSequence()
    const steps: { id: number; top: Map<number, number> }[] = []
    let next = [...prompt] as Token[]
    for (let step = 0; step < STEPS; step++) {
      const last = next.pop() as Token
      const results = await sequence.controlledEvaluate([
        ...next,
        [last, { generateNext: { probabilities: true, options: { temperature: 1, topK: 0, topP: 1, minP: 0 } } }],
      ])
      const probabilities = (results.at(-1) as { next: { probabilities: Map<Token, number> } }).next.probabilities
      const top = new Map([...probabilities].sort((a, b) => b[1] - a[1]).slice(0, 10)) as Map<number, number>
      const id = top.keys().next().value as number
      steps.push({ id, top })
      next = [id as Token]
    }
    out.push(steps)
    await context.dispose()
  }
  await model.dispose()
  await llama.dispose()
  return out
}

async function compare(name: 'nano' | 'nano-moe', folder: string): Promise<Row[]> {
  const directory = join(root, 'models', name)
  const file = join(folder, `${name}.gguf`)
  writeGguf(directory, file, 'F32')
  const model = await Qwen3.load(name, { weights: 'f32', kvCache: 'f32', contextLength: 1024 })
  const prompts = questions.map((question) =>
    model.tokenizer.encode(model.renderChat([{ role: 'user', content: question }]), { parseSpecial: true }),
  )
  const theirs = await peerContinuation(file, prompts)
  const rows: Row[] = []
  for (const [i, prompt] of prompts.entries()) {
    const { ids, logprobs } = await model
      .generate(prompt, { temperature: 0, maxTokens: STEPS, ignoreEos: true, logprobs: 10 })
      .result()
    const peer = theirs[i] as { id: number; top: Map<number, number> }[]
    let firstDifference = -1
    let largest = 0
    for (let step = 0; step < STEPS && firstDifference < 0; step++) {
      if (ids[step] !== peer[step]?.id) firstDifference = step
      for (const { id, logprob } of logprobs?.[step]?.top ?? []) {
        const probability = peer[step]?.top.get(id)
        if (probability !== undefined) largest = Math.max(largest, Math.abs(Math.exp(logprob) - probability))
      }
    }
    rows.push({
      model: name,
      prompt: questions[i] as string,
      steps: STEPS,
      sameIds: firstDifference < 0,
      firstDifference,
      largestProbabilityError: largest,
    })
  }
  await model.close()
  return rows
}

const folder = mkdtempSync(join(tmpdir(), 'qwen3-parity-'))
try {
  const rows = [...(await compare('nano', folder)), ...(await compare('nano-moe', folder))]
  console.table(rows)
  mkdirSync(join(root, 'bench', 'results'), { recursive: true })
  const result = { date: new Date().toISOString(), peer: 'node-llama-cpp 3.21.1', tolerance: TOLERANCE, rows }
  writeFileSync(join(root, 'bench', 'results', 'parity.json'), `${JSON.stringify(result, null, 2)}\n`)
  if (rows.some((row) => !row.sameIds || row.largestProbabilityError > TOLERANCE)) process.exitCode = 1
} finally {
  rmSync(folder, { recursive: true, force: true })
}
