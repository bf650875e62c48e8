/** The public API in f32 against an independent float64 forward pass: error of the logits in the 2-norm below 1e-5. */
import { join } from 'node:path'
import { afterEach, describe, expect, test } from 'vitest'
import { type LoadOptions, Qwen3 } from '../lib'
import { Forward64, logProbability, relativeError } from './helpers/forward64'
import { random, type TinyModel, type TinyModelOptions, writeTinyModel } from './helpers/tiny-model'

const bound = 1e-5
const f32: LoadOptions = { weights: 'f32', kvCache: 'f32', threads: 2, maxSequences: 2 }
const folders: TinyModel[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) folder.remove()
})

function tiny(options: TinyModelOptions): string {
  const model = writeTinyModel(options)
  folders.push(model)
  return model.directory
}

function tokens(count: number, vocab: number, seed: number): number[] {
  const uniform = random(seed)
  return Array.from({ length: count }, () => Math.floor(uniform() * vocab))
}

/** Compares logits() and score() on a random prompt; `scaled`: YaRN is expected to be in effect. */
async function compare(
  directory: string,
  options: { length: number; seed?: number; scaled?: boolean; load?: LoadOptions; name?: string },
): Promise<void> {
  const { length, seed = 1, scaled = false } = options
  const forward = new Forward64(directory)
  const ids = tokens(length, forward.config.vocab_size, seed)
  const want = forward.logits(ids, scaled)
  expect(forward.routerMargin, 'a router tie: choose another seed').toBeGreaterThan(1e-5)
  await using model = await Qwen3.load(options.name ?? directory, { ...f32, ...options.load })
  const logits = await model.logits(ids)
  expect(relativeError(logits, want.at(-1)!)).toBeLessThan(bound)
  const scores = await model.score(ids)
  const wanted = ids.slice(1).map((id, i) => logProbability(want[i]!, id))
  expect(relativeError(scores, wanted)).toBeLessThan(bound)
}

describe('models that ship with the package', () => {
  for (const name of ['nano', 'nano-moe']) {
    const directory = join(__dirname, '..', 'models', name)
    test(`${name}: short prompt`, () => compare(directory, { length: 7, name, load: { contextLength: 512 } }))
    test(`${name}: prompt over several cache blocks`, () =>
      compare(directory, { length: 150, name, seed: 5, load: { contextLength: 512 } }))
  }
})

const moe = { num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 128, norm_topk_prob: true }
const yarn = {
  max_position_embeddings: 256,
  rope_scaling: { rope_type: 'yarn' as const, factor: 4, original_max_position_embeddings: 64 },
}

describe('random models', () => {
  const cases: Record<string, TinyModelOptions> = {
    dense: {},
    'one query head a key head': { config: { num_attention_heads: 2, num_key_value_heads: 2 } },
    'five query heads a key head': { config: { num_attention_heads: 5, num_key_value_heads: 1 } },
    'q narrower than hidden': { config: { hidden_size: 384, num_attention_heads: 2 } },
    'q wider than hidden': { config: { hidden_size: 128, num_attention_heads: 8, num_key_value_heads: 2 } },
    'head_dim 64': { config: { head_dim: 64, num_attention_heads: 4, num_key_value_heads: 2 } },
    'sizes of no round kind': {
      config: {
        hidden_size: 200,
        intermediate_size: 328,
        head_dim: 72,
        num_attention_heads: 6,
        num_key_value_heads: 3,
      },
    },
    'untied embeddings': { config: { tie_word_embeddings: false } },
    'f32 file': { dtype: 'F32' },
    'f16 file': { dtype: 'F16' },
    'mixture of experts': { config: moe },
    'experts without normalised weights': { config: { ...moe, norm_topk_prob: false, num_experts_per_tok: 3 } },
    'dense and sparse layers mixed': {
      config: {
        ...moe,
        num_hidden_layers: 4,
        mlp_only_layers: [1],
        decoder_sparse_step: 2,
        tie_word_embeddings: false,
      },
    },
  }
  let seed = 100
  for (const [name, options] of Object.entries(cases)) {
    const own = seed++
    test(name, () => compare(tiny({ ...options, seed: own }), { length: 70, seed: own }))
  }
})

describe('YaRN', () => {
  test('a prompt inside the native window is not scaled', () =>
    compare(tiny({ config: yarn, seed: 7 }), { length: 40, load: { contextLength: 256 } }))
  test('a prompt beyond the native window is', () =>
    compare(tiny({ config: yarn, seed: 8 }), { length: 100, scaled: true, load: { contextLength: 256 } }))
  test("rope 'static' scales every prompt", () =>
    compare(tiny({ config: yarn, seed: 9 }), {
      length: 20,
      scaled: true,
      load: { contextLength: 256, rope: 'static' },
    }))
  test("rope 'none' scales none", () =>
    compare(tiny({ config: yarn, seed: 10 }), { length: 40, load: { contextLength: 64, rope: 'none' } }))
  test('betas and attention factor of the config are honoured', () => {
    const rope_scaling = { ...yarn.rope_scaling, beta_fast: 6, beta_slow: 2, attention_factor: 1.3 }
    return compare(tiny({ config: { ...yarn, rope_scaling, ...moe }, seed: 11 }), {
      length: 90,
      scaled: true,
      load: { contextLength: 256 },
    })
  })
  test('scaled and unscaled differ by far more than the bound', () => {
    const forward = new Forward64(tiny({ config: yarn, seed: 12 }))
    const ids = tokens(50, forward.config.vocab_size, 3)
    expect(relativeError(forward.logits(ids, true).at(-1)!, forward.logits(ids).at(-1)!)).toBeGreaterThan(1000 * bound)
  })
})

test('bf16 weights, inputs and cache stay near float64', async () => {
  const directory = tiny({ seed: 20, config: { num_hidden_layers: 3 } })
  const forward = new Forward64(directory)
  const ids = tokens(60, forward.config.vocab_size, 4)
  await using model = await Qwen3.load(directory, { weights: 'bf16', threads: 2 })
  const error = relativeError(await model.logits(ids), forward.logits(ids).at(-1)!)
  expect(error).toBeLessThan(3e-2)
  expect(error).toBeGreaterThan(1e-4)
})
