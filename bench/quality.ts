/**
 * `npm run bench:quality`: what a weight format costs. Kullback-Leibler divergence of the next-token distribution from that of
 * f32, and how often the most likely token is the same: on worked solutions of held-out problems (nano, nano-moe) and on
 * synthetic weights in the shape of Qwen3-0.6B; and the accuracy of the nano models.
 *
 * Each format is measured twice: its weights alone (rounded, then everything in f32 here, so that nothing else differs), and
 * as it runs, in this library or in node-llama-cpp, where activations and the KV cache are rounded too. Results are
 * merged into bench/results/quality.json, and docs/numerics.md gets the table.
 *
 * Options: --quick, --models nano,nano-moe,dense, --formats a,b, --texts N, --problems N, --report (the table alone)
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { LoadOptions, Qwen3 } from '../lib/index'
import { ggufSize } from './models/gguf'
import { shapes } from './models/synthetic'
import type { OwnType } from './models/tensor-tool'
import { divergences, summary } from './quality/divergence'
import {
  concurrency,
  directoryOf,
  peerRows,
  type Rows,
  rowsOf,
  type Text,
  withModel,
  withRounded,
} from './quality/models'
import {
  bitsOf,
  type QualityFormat,
  type QualityResult,
  type QualityResults,
  qualityFormats,
  writeTable,
} from './quality/table'
import { environment, repository } from './support/environment'
import { isRight, type Problem } from './support/grade'
import { inParallel } from './support/pool'
import { type Share, share } from './support/statistics'

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    models: { type: 'string', default: 'nano,nano-moe,dense' },
    formats: { type: 'string', default: qualityFormats.map(({ name }) => name).join(',') },
    texts: { type: 'string' },
    problems: { type: 'string' },
    report: { type: 'boolean', default: false },
  },
})

const file = join(repository, 'bench/results/quality.json')
/** Of the synthetic model: the first positions of a text have little context, and do not count. */
const synthetic = { texts: 8, begin: 8, length: 40 }
const problemCount = Number(flags.problems ?? (flags.quick ? 60 : 600))

function problems(count: number): Problem[] {
  const lines = readFileSync(join(repository, 'train/heldout.jsonl'), 'utf8').trim().split('\n')
  return lines.slice(0, count).map((line) => JSON.parse(line) as Problem)
}

/** A multiplicative congruential sequence (Lehmer; 48271 after Park and Miller). */
function randomIds(length: number, vocab: number, seed: number): Int32Array {
  let state = seed
  return Int32Array.from({ length }, () => {
    state = (state * 48_271) % 2_147_483_647
    return state % vocab
  })
}

/** Of every second worked solution: past it the model concludes from an unfinished thought, and is less sure of itself. */
const CUT_AT = 96

/** Worked solutions as the f32 model writes them, or ids at random. */
async function textsFor(name: string, model: Qwen3): Promise<Text[]> {
  if (name === 'dense') {
    const { texts, begin, length } = synthetic
    return Array.from({ length: flags.quick ? 2 : texts }, (_, i) => ({
      ids: randomIds(length, shapes.dense.vocab, i + 1),
      begin,
    }))
  }
  return inParallel(problems(Number(flags.texts ?? (flags.quick ? 12 : 64))), concurrency, async (problem, seed) => {
    const cut = seed % 2 === 1 ? { thinkingBudget: CUT_AT } : {}
    const { ids } = await model.chat(problem.question, { seed, ...cut }).result()
    const before = model.tokenizer.encode(model.renderChat(problem.question), { parseSpecial: true })
    return { ids: Int32Array.from([...before, ...ids]), begin: before.length - 1 }
  })
}

async function accuracy(model: Qwen3): Promise<Share> {
  const grades = await inParallel(problems(problemCount), 2 * concurrency, async ({ question, answer }, seed) => [
    isRight((await model.chat(question, { seed }).result()).text, answer),
  ])
  return share(grades)
}

/** Rows of a model, and for the trained ones the share of right answers. */
const work = (name: string, texts: Text[]) => async (model: Qwen3) => ({
  rows: await rowsOf(model, texts),
  ...(name !== 'dense' && { accuracy: await accuracy(model) }),
})

/** bf16 has no weights of its own to round to: the checkpoints are bf16. */
async function measure(name: string, format: QualityFormat, texts: Text[], expected: Rows): Promise<QualityResult> {
  const compare = (rows: Rows) => summary(divergences(expected, rows))
  const date = new Date().toISOString()
  if (format.peer) {
    const { bytes, weights } = ggufSize(directoryOf(name), format.peer)
    const { rows, ...rest } = await withRounded(name, format.peer, work(name, texts))
    const running = compare(await peerRows(name, format.peer, texts))
    return { date, bits: (8 * bytes) / weights, alone: compare(rows), running, ...rest }
  }
  const { rows, ...rest } = await withModel(
    directoryOf(name),
    name,
    format.name as LoadOptions['weights'],
    work(name, texts),
  )
  const running = compare(rows)
  if (format.name === 'bf16') return { date, bits: 16, running, ...rest }
  const alone = await withRounded(name, format.name as OwnType, (model) => rowsOf(model, texts))
  return { date, bits: bitsOf(format.name), alone: compare(alone), running, ...rest }
}

function formatCalled(name: string): QualityFormat {
  const format = qualityFormats.find((one) => one.name === name)
  if (!format) throw new Error(`no format ${name}; there are ${qualityFormats.map((one) => one.name).join(', ')}`)
  return format
}

async function measureModel(name: string, results: QualityResults): Promise<void> {
  const { texts, expected } = await withModel(directoryOf(name), name, 'f32', async (model) => {
    const made = await textsFor(name, model)
    return { texts: made, expected: await rowsOf(model, made) }
  })
  for (const formatName of flags.formats.split(',')) {
    const result = await measure(name, formatCalled(formatName), texts, expected)
    results.models[name] ??= {}
    results.models[name][formatName] = result
    results.problems = problemCount
    console.log(line(name, formatName, result))
    mkdirSync(join(repository, 'bench/results'), { recursive: true })
    writeFileSync(file, `${JSON.stringify({ ...results, ...environment() }, null, 1)}\n`)
  }
}

function line(model: string, format: string, { bits, alone, running, accuracy: right }: QualityResult): string {
  return [
    model.padEnd(9),
    format.padEnd(12),
    `${bits.toFixed(2)} bits`,
    `KL alone ${alone?.kl.toExponential(2) ?? '       '}`,
    `running ${running.kl.toExponential(2)}`,
    `top-1 ${(100 * running.top1).toFixed(2)}%`,
    right ? `right ${(100 * right.accuracy).toFixed(1)}%` : '',
  ].join('  ')
}

async function main(): Promise<void> {
  const results: QualityResults = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : { models: {} }
  if (!flags.report) for (const name of flags.models.split(',')) await measureModel(name, results)
  writeTable(results)
}

void main()
