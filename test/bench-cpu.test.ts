import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { ceiling } from '../bench/cpu/cells'
import { chart, table } from '../bench/cpu/report'
import { compare, type Results, summarise } from '../bench/cpu/results'
import { tensorType } from '../bench/models/gguf'
import { ggufHeader } from '../bench/models/gguf-header'
import { activeWeights, shapes } from '../bench/models/synthetic'
import { divergence } from '../bench/quality/divergence'
import { table as qualityTable } from '../bench/quality/table'
import { barChart } from '../bench/support/bars'
import { replaceSection } from '../bench/support/readme'
import { median } from '../bench/support/statistics'

const folder = mkdtempSync(join(tmpdir(), 'qwen3-bench-'))
afterAll(() => rmSync(folder, { recursive: true }))

const roofs = { readGigabytesPerSecond: 50, bf16Gflops: 400, int8Gops: 800 }
const memory = { peak: 900e6, anonymous: 600e6, mapped: 300e6 }

function cellResult(ours: number[], peer: number[]) {
  const cell = { shape: 'dense', format: 'int8', task: 'decode512' } as const
  const pairs = ours.map((value, i) => ({
    ours: { values: [value], loadMs: 100, memory, processorMs: 0, disturbed: 0 },
    peer: { values: [peer[i]!], loadMs: 200, memory, processorMs: 0, disturbed: 0.2 },
  }))
  const bits = { ours: 8.25, peer: 8.5 }
  const ceilings = { ours: ceiling(cell, 8.25, roofs), peer: ceiling(cell, 8.5, roofs) }
  return compare(cell, summarise(pairs), { roofs, bits, ceilings, flashAttention: true })
}

describe('the comparison on the CPU', () => {
  it('takes the ratio of neighbours, and the median of the ratios', () => {
    const { figures } = cellResult([40, 60, 30], [20, 20, 10])
    expect(figures.ratio).toEqual({ median: 3, low: 2, high: 3 })
    expect(figures.ours.tokensPerSecond?.median).toBe(40)
  })

  it('knows what a token of the 0.6B shape must read', () => {
    const { layers, head } = activeWeights(shapes.dense)
    expect(layers).toBe(440_401_920)
    expect(head).toBe(155_582_464)
    const cell = { shape: 'dense', format: 'bf16', task: 'decode512' } as const
    // 1.19 GB of weights and 576 tokens of 114,688 bytes at 50 GB/s.
    expect(ceiling(cell, 16, roofs)).toBeCloseTo(50e9 / (2 * (layers + head) + 576 * 114_688), 6)
  })

  it('counts the experts that sixteen sequences touch, not eight times sixteen', () => {
    const one = ceiling({ shape: 'moe', format: 'bf16', task: 'decode512' }, 16, roofs)
    const many = ceiling({ shape: 'moe', format: 'bf16', task: 'batch16' }, 16, roofs)
    expect(many / one).toBeGreaterThan(2)
    expect(many / one).toBeLessThan(16)
  })

  it('draws a bar for every cell and says the fraction in the table', () => {
    const { figures } = cellResult([40, 60, 30], [20, 20, 10])
    const where = { date: '', commit: 'c', device: 'd', rounds: 3 }
    const results: Results = {
      peer: 'p',
      threads: 2,
      flash: {},
      cells: { 'dense/int8/decode512': { ...where, ...figures } },
    }
    const drawing = barChart(chart(results))
    expect(drawing.match(/<rect /g)).toHaveLength(1 + 4 + 1)
    expect(drawing).toContain('>3.0<')
    const percent = (100 * figures.ours.fraction!).toFixed(0)
    expect(table(results)).toContain(`| decode after 512 |  | 40.0 (${percent}%), **3.00x** |  |  |`)
  })
})

describe('GGUF files', () => {
  it.each([
    ['Q4_K_M', 'token_embd.weight', 1024, 'Q6_K'],
    ['Q4_K_M', 'blk.0.attn_v.weight', 1024, 'Q6_K'],
    ['Q4_K_M', 'blk.3.ffn_down.weight', 1024, 'Q4_K'],
    ['Q4_K_M', 'blk.5.ffn_down.weight', 1024, 'Q6_K'],
    ['Q4_K_M', 'blk.27.ffn_down_exps.weight', 384, 'Q8_0'],
    ['Q4_K_M', 'blk.4.attn_q.weight', 384, 'Q5_0'],
    ['Q4_0', 'token_embd.weight', 1024, 'Q4_0'],
    ['Q8_0', 'blk.0.ffn_gate_inp.weight', 1024, 'F32'],
    ['BF16', 'blk.0.attn_q_norm.weight', 128, 'F32'],
  ] as const)('%s: %s with rows of %d is %s', (format, name, cols, type) => {
    expect(tensorType(format, name, cols, 28)).toBe(type)
  })

  it('have a header that ends at a multiple of 32 and shapes from the inside out', () => {
    const header = ggufHeader(
      [['a', { type: 'u32', value: 7 }]],
      [{ name: 't', shape: [2, 32], type: 'Q8_0', offset: 0 }],
    )
    expect(header.length % 32).toBe(0)
    expect(header.toString('latin1', 0, 4)).toBe('GGUF')
    // magic, version, two counts; key, type, value; name, number of dimensions
    const at = 24 + (8 + 1 + 4 + 4) + (8 + 1 + 4)
    expect([header.readBigUInt64LE(at), header.readBigUInt64LE(at + 8)]).toEqual([32n, 2n])
    expect(header.readUInt32LE(at + 16)).toBe(8)
  })
})

describe('sections of documents', () => {
  it('are replaced between their markers, and nowhere else', () => {
    const file = join(folder, 'page.md')
    const markers = { begin: '<!-- x -->', end: '<!-- /x -->' }
    writeFileSync(file, 'before\n<!-- x -->\nold\n<!-- /x -->\nafter\n')
    expect(replaceSection(file, markers, '<!-- x -->\nnew\n<!-- /x -->')).toBe(true)
    expect(readFileSync(file, 'utf8')).toBe('before\n<!-- x -->\nnew\n<!-- /x -->\nafter\n')
    expect(replaceSection(file, { begin: '<!-- y -->', end: '<!-- /y -->' }, '')).toBe(false)
  })
})

it('the median of an even count is the mean of the middle two', () => {
  expect(median([4, 1, 3, 2])).toBe(2.5)
  expect(median([3, 1, 2])).toBe(2)
})

describe('quality of formats', () => {
  it('divergence: nothing for equal rows and shifted ones, the known value for two outcomes', () => {
    const p = Float32Array.of(1, 2, 3)
    expect(divergence(p, p)).toEqual({ kl: 0, sameTop: true })
    expect(divergence(p, Float32Array.of(11, 12, 13)).kl).toBeCloseTo(0, 6)
    const half = Float32Array.of(0, 0)
    const quarter = Float32Array.of(Math.log(1), Math.log(3))
    const { kl, sameTop } = divergence(half, quarter)
    expect(kl).toBeCloseTo(0.5 * Math.log(2) + 0.5 * Math.log(2 / 3), 6)
    expect(sameTop).toBe(false)
    expect(() => divergence(p, half)).toThrow(RangeError)
  })

  it('the table has a row for every format that was measured', () => {
    const running = { positions: 1000, kl: 0.001, klP99: 0.01, top1: 0.995 }
    const text = qualityTable({ models: { nano: { int8: { date: '', bits: 8.25, alone: running, running } } } })
    expect(text).toContain('| **int8** | 8.25 | 1.0e-3 | 1.0e-3 | 1.0e-2 | 99.50% |')
    expect(text).not.toContain('Q4_0')
  })
})
