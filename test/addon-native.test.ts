import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  loadAddon,
  type NativeAddon,
  type NativeLoadSpec,
  type NativeModel,
  type NativeRequest,
  type NativeTensors,
} from '../lib/native'
import { start } from './helpers/command'
import { type CompiledLibrary, compileLibrary, fixture } from './helpers/library'

// The boundary itself: lib/ never calls it wrongly, but a wrong call must be an error and never undefined behaviour.

const addon: NativeAddon = loadAddon()
const VOCAB = 100
const spec: NativeLoadSpec = {
  key: 'test:addon-native',
  config: {
    layers: 2,
    hidden: 128,
    qHeads: 4,
    kvHeads: 2,
    headDim: 128,
    ffn: 256,
    vocab: VOCAB,
    rmsNormEps: 1e-6,
    ropeTheta: 1e6,
    tiedEmbeddings: true,
    nativeWindow: 2048,
    experts: 0,
    topKExperts: 0,
    moeFfn: 0,
    normTopkProb: true,
    moeLayers: new Uint8Array(2),
  },
  tensors: {
    names: '',
    paths: [],
    files: new Uint32Array(),
    dtypes: new Uint8Array(),
    ranges: new Float64Array(),
    shapes: new Float64Array(),
  },
  random: 1n,
  device: 'cpu',
  isa: 'auto',
  batchInvariance: 'batch',
  weights: 'bf16',
  embeddingWeights: 'bf16',
  headWeights: 'bf16',
  kvCache: 'bf16',
  contextLength: 2048,
  kvCacheBytes: 2 ** 26,
  maxSequences: 8,
  maxWaiting: 100,
  threads: 1,
  rope: 'auto',
  tokenBytes: new Uint8Array(VOCAB).fill(97),
  tokenOffsets: Uint32Array.from({ length: VOCAB + 1 }, (_, i) => i),
}
const request: NativeRequest = {
  prompt: Int32Array.of(1, 2, 3),
  temperature: 1,
  topP: 1,
  topK: 0,
  minP: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
  seed: 5n,
  choice: 0,
  logitBiasIds: new Int32Array(),
  logitBiasValues: new Float32Array(),
  topLogprobs: -1,
  segments: {
    canThink: false,
    startsInThink: false,
    thinkOpen: -1,
    thinkClose: -1,
    toolOpen: -1,
    toolClose: -1,
    wrapUp: new Int32Array(),
    budget: -1,
    deadlineMs: -1,
    answerReserve: 0,
    loopBreaker: true,
    softLanding: true,
  },
  maxTokens: 5,
  eos: new Int32Array(),
  ignoreEos: false,
  stop: [],
  cacheNamespace: 0n,
  mode: 'generate',
}

let model: NativeModel
let library: CompiledLibrary

beforeAll(async () => {
  library = compileLibrary()
  model = (await addon.load(spec, () => {}).promise).model
})
afterAll(async () => {
  library.remove()
  await model.close()
})

const codeOf = (call: () => unknown): string | undefined => {
  try {
    call()
  } catch (error) {
    return (error as { code?: string }).code
  }
  return 'no error'
}

/** Every field, replaced by values of every other type. */
const wrongValues: unknown[] = [
  undefined,
  null,
  true,
  'text',
  1.5,
  Number.NaN,
  2n ** 64n,
  -1n,
  {},
  [],
  [null],
  () => {},
  Symbol('s'),
  new Float64Array(1),
]
const accepts: Record<string, (value: unknown) => boolean> = {
  random: (value) => value === undefined || value === null,
  yarn: (value) => value === undefined || value === null,
  key: (value) => typeof value === 'string',
  device: (value) => typeof value === 'string',
  isa: (value) => typeof value === 'string',
  batchInvariance: (value) => value === 'batch' || value === 'full',
}
const isNumberField = (value: unknown) => typeof value === 'number'

describe('a field of the wrong type is INVALID_ARGUMENT', () => {
  test.each(Object.keys(spec))('load: %s', (field) => {
    for (const value of wrongValues) {
      if (accepts[field]?.(value)) continue
      const base = field === 'tensors' ? { ...spec, random: undefined } : spec
      const code = codeOf(() => addon.load({ ...base, [field]: value } as NativeLoadSpec, () => {}))
      expect(code, String(value)).toBe('INVALID_ARGUMENT')
    }
  })

  test.each(Object.keys(request))('submit: %s', (field) => {
    const original = request[field as keyof NativeRequest]
    for (const value of wrongValues) {
      // Of the same type: the engine decides, which its own tests cover; here it may only not crash.
      const sameType = isNumberField(original)
        ? isNumberField(value)
        : typeof value === typeof original && typeof value !== 'object'
      const emptyList = field === 'stop' && Array.isArray(value) && value.length === 0
      const code = codeOf(() => model.submit({ ...request, [field]: value } as NativeRequest))
      if (!sameType && !emptyList) expect(code, String(value)).toBe('INVALID_ARGUMENT')
      else expect(['INVALID_ARGUMENT', 'no error']).toContain(code)
    }
  })

  test('numbers at the edges', () => {
    for (const value of [2 ** 31, -(2 ** 31) - 1, 2 ** 53 + 2, Number.POSITIVE_INFINITY, -0.5]) {
      expect(
        codeOf(() => model.submit({ ...request, topK: value })),
        String(value),
      ).toBe('INVALID_ARGUMENT')
    }
    for (const ids of [[-1], [VOCAB], [2 ** 31 - 1], [-(2 ** 31)]]) {
      expect(codeOf(() => model.submit({ ...request, prompt: Int32Array.from(ids) }))).toBe('INVALID_ARGUMENT')
      expect(codeOf(() => model.submit({ ...request, eos: Int32Array.from(ids) }))).not.toBe('INTERNAL')
    }
  })

  test('views with an offset are read where they lie', async () => {
    const backing = Int32Array.of(99, 1, 2, 3, 99)
    expect(codeOf(() => model.submit({ ...request, prompt: backing.subarray(1, 4) }))).toBe('no error')
    // Detached memory is empty, not dangling.
    const detached = Int32Array.of(1, 2, 3)
    structuredClone(detached, { transfer: [detached.buffer] })
    expect(codeOf(() => model.submit({ ...request, prompt: detached }))).toBe('INVALID_ARGUMENT')
  })
})

test.each<[string, Partial<NativeTensors>]>([
  [
    'fewer names than tensors',
    { files: new Uint32Array(2), dtypes: new Uint8Array(2), ranges: new Float64Array(4), shapes: new Float64Array(4) },
  ],
  ['arrays of unequal length', { names: 'a' }],
  ['a file that is not listed', { files: Uint32Array.of(1) }],
  ['an unknown dtype', { dtypes: Uint8Array.of(3) }],
  ['a negative offset', { ranges: Float64Array.of(-1, 4) }],
  ['a length of 2^60', { ranges: Float64Array.of(0, 2 ** 60) }],
  ['a fraction', { shapes: Float64Array.of(1.5, 1) }],
  ['NaN', { shapes: Float64Array.of(Number.NaN, 1) }],
])('tensors with %s are refused', async (what, changes) => {
  const one = {
    names: 'a',
    paths: ['/'],
    files: new Uint32Array(1),
    dtypes: new Uint8Array(1),
    ranges: new Float64Array(2),
    shapes: new Float64Array(2),
  }
  const tensors = { ...(what === 'arrays of unequal length' ? spec.tensors : one), ...changes }
  if (what === 'arrays of unequal length') tensors.files = new Uint32Array(1)
  const load = addon.load({ ...spec, key: 'test:other', random: undefined, tensors }, () => {})
  await expect(load.promise).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', subject: 'tensors' })
})

test('calls with nothing, and with more', async () => {
  const loose = addon as unknown as Record<string, (...args: unknown[]) => unknown>
  for (const name of ['load', 'plan', 'setOutputHandler']) expect(codeOf(() => loose[name]!())).toBe('INVALID_ARGUMENT')
  expect(codeOf(() => loose.setOutputHandler!(() => {}, new Float32Array(8)))).toBe('INVALID_ARGUMENT')
  const looseModel = model as unknown as Record<string, (...args: unknown[]) => unknown>
  for (const name of ['submit', 'cancel', 'endThinking', 'setThinkingBudget']) {
    expect(codeOf(() => looseModel[name]!())).toBe('INVALID_ARGUMENT')
  }
  for (const id of [0, -5, 1e15]) {
    expect(codeOf(() => model.cancel(id))).toBe('no error')
    expect(codeOf(() => model.endThinking(id))).toBe('no error')
  }
})

test('a native model is made by load() alone, and its methods want it as this', () => {
  const Class = model.constructor as new (...args: unknown[]) => unknown
  expect(() => new Class()).toThrow(TypeError)
  expect(() => new Class({})).toThrow(TypeError)
  expect(() => model.stats.call({} as NativeModel)).toThrow()
})

test('after close() calls are CLOSED or do nothing, and close() is idempotent', async () => {
  const { model: other } = await addon.load(spec, () => {}).promise
  await Promise.all([other.close(), other.close()])
  expect(codeOf(() => other.submit(request))).toBe('CLOSED')
  expect(codeOf(() => other.stats())).toBe('CLOSED')
  expect(codeOf(() => other.cancel(1))).toBe('no error')
})

test('plan() agrees with what a load takes', async () => {
  const { weightBytes, blockBytes, held } = await addon.plan(spec)
  expect(held).toBe(true)
  expect((await addon.plan({ ...spec, key: 'test:not-loaded' })).held).toBe(false)
  const stats = model.stats()
  expect(stats.blockBytes).toBe(blockBytes)
  expect(stats.weightBytes).toBe(weightBytes)
  await expect(addon.plan({ ...spec, config: { ...spec.config, layers: 1e9 } })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
})

test('cpuInfo describes this machine', () => {
  const info = addon.cpuInfo()
  expect(info.levels).toContain(info.isa)
  expect(info.physicalCores).toBeGreaterThan(0)
  expect(info.availableBytes).toBeGreaterThan(0)
  expect(info.availableBytes).toBeLessThanOrEqual(info.memoryBytes)
})

test('models forgotten without close() are collected; one with a stream is kept until it ends', async () => {
  const { code, stdout, stderr } = await start(process.execPath, ['--expose-gc', fixture('collect.cjs')], {
    env: { QWEN3_LIBRARY: library.index },
  }).finished
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const { growth, ids } = JSON.parse(stdout)
  expect(ids).toBe(300)
  // Twenty caches of 1,500 tokens are 95 MB, and the weights and tokenizers of twenty models as much again.
  expect(growth).toBeLessThan(90)
})
