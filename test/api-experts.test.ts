import { describe, expect, test } from 'vitest'
import { Qwen3 } from '../lib'
import { expertLoad } from '../lib/experts'

describe('stats().experts', () => {
  test('entropy and balance of known loads; dense layers are left out', () => {
    const counts = Float64Array.from([5, 5, 5, 5, 0, 0, 0, 0, 0, 8, 0, 0, 1, 3, 0, 0, 0, 0, 0, 0])
    const load = expertLoad(counts, 4, Uint8Array.from([1, 0, 1, 1, 1]))
    expect(load.counts.map((layer) => [...layer])).toEqual([
      [5, 5, 5, 5],
      [0, 8, 0, 0],
      [1, 3, 0, 0],
      [0, 0, 0, 0],
    ])
    expect(load.entropy[0]).toBeCloseTo(Math.log(4), 12)
    expect(load.entropy[1]).toBe(0)
    expect(load.entropy[2]).toBeCloseTo(0.25 * Math.log(4) + 0.75 * Math.log(4 / 3), 12)
    expect(load.entropy[3]).toBe(0)
    expect(load.balance).toEqual([1, 4, 4 * (1 / 16 + 9 / 16), 0])
  })

  test('counts every row of a mixture of experts, and nothing of a dense model', { timeout: 60_000 }, async () => {
    const model = await Qwen3.load('nano-moe', { contextLength: 256 })
    expect(model.stats().experts?.balance.every((value) => value === 0)).toBe(true)
    const ids = model.tokenizer.encode('One, two, three, four, five.')
    await model.score(ids)
    const { experts } = model.stats()
    const totals = experts?.counts.map((layer) => layer.reduce((a, b) => a + b, 0)) ?? []
    expect(totals.length).toBeGreaterThan(0)
    expect(new Set(totals).size).toBe(1) // every layer sees the same rows
    expect((totals[0] as number) % ids.length).toBe(0) // times the experts of a token
    for (const [i, layer] of (experts?.counts ?? []).entries()) {
      expect(experts?.balance[i]).toBeGreaterThanOrEqual(1)
      expect(experts?.balance[i]).toBeLessThan(layer.length)
      expect(experts?.entropy[i]).toBeGreaterThan(0)
      expect(experts?.entropy[i]).toBeLessThanOrEqual(Math.log(layer.length) + 1e-12)
    }
    await model.close()
    const dense = await Qwen3.load('nano', { contextLength: 256 })
    expect(dense.stats().experts).toBeUndefined()
    await dense.close()
  })
})
