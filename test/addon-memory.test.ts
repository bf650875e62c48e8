import { expect, test } from 'vitest'
import { BLOCK_TOKENS, type MemoryRequest, planMemory } from '../lib/memory'

const GB = 1e9
/** Qwen3-0.6B in bf16 on a machine with 24 GB free. */
const request = (changes: Partial<MemoryRequest> = {}): MemoryRequest => ({
  name: 'model',
  weightBytes: 1.2 * GB,
  blockBytes: BLOCK_TOKENS * 114_688,
  availableBytes: 24 * GB,
  window: 32_768,
  ...changes,
})

const blocks = (bytes: number) => bytes / request().blockBytes

test('plenty of memory: the whole window, and a cache of at least one such context', () => {
  const { contextLength, kvCacheBytes } = planMemory(request())
  expect(contextLength).toBe(32_768)
  expect(blocks(kvCacheBytes)).toBeGreaterThan(32_768 / BLOCK_TOKENS)
  expect(Number.isInteger(blocks(kvCacheBytes))).toBe(true)
  // A quarter of what the weights leave is the most that nobody asked for.
  expect(kvCacheBytes).toBeLessThanOrEqual(0.25 * (24 - 1.2) * GB)
})

test('a small model takes room for eight contexts and no more', () => {
  const { kvCacheBytes } = planMemory(request({ window: 2048, weightBytes: 5e6 }))
  expect(blocks(kvCacheBytes)).toBe((8 * 2048) / BLOCK_TOKENS + 1)
})

test('little memory: the context is what fits', () => {
  const { contextLength, kvCacheBytes } = planMemory(request({ availableBytes: 3 * GB }))
  expect(contextLength).toBeLessThan(32_768)
  expect(contextLength).toBeGreaterThan(8192)
  expect(contextLength % BLOCK_TOKENS).toBe(0)
  expect(1.2 * GB + kvCacheBytes).toBeLessThan(3 * GB)
})

test('an explicit context is kept or refused, never shortened', () => {
  expect(planMemory(request({ contextLength: 1000 })).contextLength).toBe(1000)
  expect(() => planMemory(request({ contextLength: 32_768, availableBytes: 3 * GB }))).toThrow(
    expect.objectContaining({ code: 'OUT_OF_MEMORY' }),
  )
})

test('an explicit cache is kept, and decides the context', () => {
  const kvCacheBytes = request().blockBytes * 101
  const plan = planMemory(request({ kvCacheBytes }))
  expect(plan).toEqual({ kvCacheBytes, contextLength: 100 * BLOCK_TOKENS })
})

test('weights that do not fit are refused with the numbers', () => {
  expect(() => planMemory(request({ availableBytes: 1 * GB }))).toThrow(/needs 1,200 MB for weights.*1,000 MB/)
})

test('weights in memory already cost nothing', () => {
  expect(planMemory(request({ availableBytes: 5 * GB, weightBytes: 0, contextLength: 32_768 })).contextLength).toBe(
    32_768,
  )
  expect(() => planMemory(request({ availableBytes: 5 * GB, contextLength: 32_768 }))).toThrow(
    expect.objectContaining({ code: 'OUT_OF_MEMORY' }),
  )
})

test('the plan always fits: random sizes', () => {
  let seed = 12345
  const random = () => {
    seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31
    return seed / 2 ** 31
  }
  for (let i = 0; i < 2000; i++) {
    const changes = {
      weightBytes: Math.floor(random() * 10 * GB),
      blockBytes: Math.floor(1e4 + random() * 2e7),
      availableBytes: Math.floor(random() * 30 * GB),
      window: 1 + Math.floor(random() * 131_072),
      ...(random() < 0.3 && { contextLength: 1 + Math.floor(random() * 131_072) }),
    }
    try {
      const { contextLength, kvCacheBytes } = planMemory(request(changes))
      expect(changes.weightBytes + kvCacheBytes).toBeLessThanOrEqual(changes.availableBytes)
      expect(kvCacheBytes / changes.blockBytes).toBeGreaterThanOrEqual(Math.ceil(contextLength / BLOCK_TOKENS))
      expect(contextLength).toBeLessThanOrEqual(changes.contextLength ?? changes.window)
    } catch (error) {
      expect(error).toMatchObject({ code: 'OUT_OF_MEMORY' })
    }
  }
})
