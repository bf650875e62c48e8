/**
 * Teacher forcing on the emulated CUDA device, through the addon: after every token of a given text the most likely next one, and the
 * experts that every layer chose for it, are those of the CPU and of float64, wherever float64 says that the choice is no near tie.
 * Runs where QWEN3_CUDA_LIBRARY names libqwen3_cuda_emulated.so (npm run test:cuda).
 */
import { join } from 'node:path'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import { Qwen3 } from '../lib'
import { Forward64, logProbability, type Route, relativeError } from './helpers/forward64'
import { random, type TinyModel, writeTinyModel } from './helpers/tiny-model'

// Stated bounds of bf16 weights, inputs and cache (docs/numerics.md). A row of logits is within 3e-2 of float64 in the 2-norm, most
// within 1e-2. A logit then moves by 1e-2 times the row's root mean square, normally distributed: two of them change places
// only where float64 has them closer than six deviations of their difference. Routers see the same errors in their scores.
const rowBound = 3e-2
const marginOfLogits = 6 * Math.SQRT2 * 1e-2
const marginOfRouter = 0.05

const folders: TinyModel[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) folder.remove()
})

interface Forced {
  logits: Float32Array[]
  /** Expert ids by position and layer, ascending; empty for dense models. */
  experts: number[][][]
  /** Of every token but the first, from one pass over the whole prompt: the kernels of prefill. */
  scores: ArrayLike<number>
}

/** Runs every prefix of `ids`. What a step adds to the counts of expert use is what its rows chose. */
async function force(model: Qwen3, ids: readonly number[], nLayers: number, topK: number): Promise<Forced> {
  const out: Forced = { logits: [], experts: [], scores: await model.score(ids) }
  let before: number[] = []
  const expertCounts = () => model.stats().experts?.counts.flatMap((layer) => [...layer])
  before = expertCounts() ?? before
  for (let n = 1; n <= ids.length; n++) {
    out.logits.push(await model.logits(ids.slice(0, n)))
    const counts = expertCounts()
    if (!counts) continue
    const added = counts.map((count, i) => count - (before[i] ?? 0))
    before = counts
    const nExperts = counts.length / nLayers
    // A step may compute earlier tokens again: what they chose is known.
    const rows = added.reduce((sum, x) => sum + x, 0) / (topK * nLayers)
    out.experts.push(
      Array.from({ length: nLayers }, (_, layer) => {
        const mine = added.slice(layer * nExperts, (layer + 1) * nExperts)
        for (let p = n - rows; p < n - 1; p++) for (const e of out.experts[p]![layer]!) mine[e]!--
        return Array.from(mine.keys()).flatMap((e) => Array<number>(mine[e]!).fill(e))
      }),
    )
  }
  return out
}

function best(values: ArrayLike<number>): { id: number; margin: number } {
  let id = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[id]!) id = i
  let second = Number.NEGATIVE_INFINITY
  for (let i = 0; i < values.length; i++) if (i !== id && values[i]! > second) second = values[i]!
  return { id, margin: values[id]! - second }
}

async function compare(directory: string, prompts: readonly (readonly number[])[]): Promise<void> {
  const forward = new Forward64(directory)
  const options = { weights: 'bf16', contextLength: 128, threads: 2 } as const
  await using cpu = await Qwen3.load(directory, { device: 'cpu', ...options })
  await using cuda = await Qwen3.load(directory, { device: 'cuda', ...options })
  const total: Compared = { routes: 0, comparedRoutes: 0, rows: 0, comparedRows: 0, decided: 0, scores: 0 }
  for (const ids of prompts) {
    const want = forward.logits(ids)
    const { num_hidden_layers: nLayers, num_experts_per_tok: topK = 1 } = forward.config
    comparePrompt(
      ids,
      forward.routes,
      want,
      await force(cpu, ids, nLayers, topK),
      await force(cuda, ids, nLayers, topK),
      total,
    )
  }
  if (total.routes > 0) expect(total.comparedRoutes / total.routes).toBeGreaterThan(0.5)
  expect(total.comparedRows / total.rows).toBeGreaterThan(0.5)
  expect(total.decided / total.comparedRows).toBeGreaterThan(0.5)
  expect(total.scores).toBeGreaterThan(2)
}

/** How much was held against float64: a test that compares nothing must not pass. */
interface Compared {
  routes: number
  comparedRoutes: number
  rows: number
  comparedRows: number
  decided: number
  scores: number
}

function comparePrompt(
  ids: readonly number[],
  routes: Route[],
  want: Float64Array[],
  cpu: Forced,
  cuda: Forced,
  total: Compared,
): void {
  // A choice next to a tie may fall otherwise; then what comes after it is another computation, and is not compared.
  const apart = want.map(() => Number.POSITIVE_INFINITY) // the layer from which on a position differs
  for (const { layer, position, experts, margin } of routes) {
    const reached = Math.min(...apart.slice(0, position + 1))
    if (layer > reached) continue
    const [ours, theirs] = [cuda.experts[position]![layer]!, cpu.experts[position]![layer]!]
    if (margin > marginOfRouter) {
      total.comparedRoutes++
      expect(ours, `experts of position ${position}, layer ${layer}`).toEqual(experts)
      expect(theirs, `the CPU's experts of position ${position}, layer ${layer}`).toEqual(experts)
    } else if (`${ours}` !== `${experts}` || `${theirs}` !== `${experts}`) apart[position] = layer
  }
  total.routes += routes.length
  total.rows += want.length
  want.forEach((row, position) => {
    if (Math.min(...apart.slice(0, position + 1)) < Number.POSITIVE_INFINITY) return
    total.comparedRows++
    const ours = cuda.logits[position]!
    expect(relativeError(ours, row), `logits after position ${position}`).toBeLessThan(rowBound)
    const expected = best(row)
    const deviation = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / row.length)
    // Prefill chooses by itself: only where it has no near tie behind it.
    const sure = routes.every((route) => route.position > position || route.margin > marginOfRouter)
    if (position + 1 < ids.length && sure) {
      total.scores++
      const difference = cuda.scores[position]! - logProbability(row, ids[position + 1]!)
      expect(Math.abs(difference), `log-probability after position ${position}`).toBeLessThan(
        marginOfLogits * deviation,
      )
    }
    if (expected.margin <= marginOfLogits * deviation) return
    total.decided++
    expect(best(ours).id, `token after position ${position}`).toBe(expected.id)
    expect(best(cpu.logits[position]!).id, `the CPU's token after position ${position}`).toBe(expected.id)
  })
}

function tiny(changes: object, seed: number): string {
  const model = writeTinyModel({ config: changes, seed })
  folders.push(model)
  return model.directory
}

function tokens(count: number, vocab: number, seed: number): number[] {
  const uniform = random(seed)
  return Array.from({ length: count }, () => Math.floor(uniform() * vocab))
}

describe.skipIf(!process.env.QWEN3_CUDA_LIBRARY?.includes('emulated'))('teacher forcing on the emulated device', () => {
  const dense = { hidden_size: 64, intermediate_size: 96, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 32 }
  const moe = { num_experts: 16, num_experts_per_tok: 4, moe_intermediate_size: 48, norm_topk_prob: true }

  test('a random dense model, over a cache block', { timeout: 300_000 }, () =>
    compare(tiny({ ...dense, num_hidden_layers: 3 }, 31), [tokens(70, 800, 1)]),
  )
  // Many short prompts: a choice next to a tie that falls otherwise spoils its own only.
  test('a random mixture of experts', { timeout: 300_000 }, () =>
    compare(
      tiny({ ...dense, ...moe, num_hidden_layers: 3 }, 32),
      Array.from({ length: 8 }, (_, i) => tokens(5, 800, 2 + i)),
    ),
  )
  test.each(['nano', 'nano-moe'])('%s on a text of its own kind', { timeout: 300_000 }, async (name) => {
    process.env.QWEN3_EMULATED_COMPUTE = '90' // heads of 128: the kernels of sm_90a
    onTestFinished(() => {
      delete process.env.QWEN3_EMULATED_COMPUTE
    })
    const text = '12 + 30 - 7 = 35. Which number comes next: 2, 4, 8, 16?'
    await using model = await Qwen3.load(name, { device: 'cpu', contextLength: 128 })
    await compare(join(__dirname, '..', 'models', name), [Array.from(model.tokenizer.encode(text)).slice(0, 20)])
  })
})
