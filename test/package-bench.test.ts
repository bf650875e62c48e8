import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { lineChart } from '../bench/support/chart'
import { isRight } from '../bench/support/grade'
import { inParallel } from '../bench/support/pool'
import { accuracySection, updateReadme } from '../bench/support/readme'
import { quantile, share, wilson } from '../bench/support/statistics'

describe('grading', () => {
  it.each([
    ['The answer is 98.', '98', true],
    ['Die Antwort ist 98.', '9', false],
    ['First 12, then 98', '98', true],
    ['98 and then 12', '98', false],
    ['Lisa has more: Lisa.', 'Lisa', true],
    ['答案是小明。', '小明', true],
    ['', '5', false],
  ])('%j for %j: %s', (text, expected, right) => {
    expect(isRight(text, expected)).toBe(right)
  })
})

describe('intervals', () => {
  it("are Wilson's, for known values", () => {
    // Newcombe 1998, table I: 81 of 263, and 0 of 20.
    expect(wilson(81 / 263, 263).low).toBeCloseTo(0.2553, 4)
    expect(wilson(81 / 263, 263).high).toBeCloseTo(0.3662, 4)
    expect(wilson(0, 20)).toEqual({ low: 0, high: expect.closeTo(0.1611, 4) })
  })

  it('count a problem answered three times alike as one observation', () => {
    const once = share(Array.from({ length: 100 }, (_, index) => [index < 80]))
    const thrice = share(Array.from({ length: 100 }, (_, index) => [index < 80, index < 80, index < 80]))
    expect(thrice.accuracy).toBeCloseTo(once.accuracy)
    expect(thrice.high - thrice.low).toBeCloseTo(once.high - once.low, 2)
  })

  it('contain the share, lie in [0, 1], and narrow with independent seeds', () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(fc.boolean(), { minLength: 3, maxLength: 3 }), { minLength: 1, maxLength: 50 }),
        (grades) => {
          const { accuracy, low, high } = share(grades)
          expect(low).toBeGreaterThanOrEqual(0)
          expect(high).toBeLessThanOrEqual(1)
          expect(accuracy).toBeGreaterThanOrEqual(low - 1e-12)
          expect(accuracy).toBeLessThanOrEqual(high + 1e-12)
        },
      ),
    )
  })

  it('quantiles', () => {
    expect([quantile([3, 1, 2], 0.5), quantile([1, 2, 3, 4], 0.95)]).toEqual([2, 4])
  })
})

describe('the worker pool', () => {
  it('keeps order and never runs more than its limit', async () => {
    let running = 0
    let most = 0
    const results = await inParallel([5, 1, 3, 2, 4], 2, async (value) => {
      most = Math.max(most, ++running)
      await new Promise((resolve) => setTimeout(resolve, value))
      running--
      return value * 10
    })
    expect(results).toEqual([50, 10, 30, 20, 40])
    expect(most).toBe(2)
  })
})

describe('the chart', () => {
  const chart = {
    title: 'a < b & "c"',
    subtitle: '',
    xLabel: 'x',
    yLabel: 'y',
    ticks: [0, 64].map((x) => ({ x, label: String(x) })),
    panels: [
      {
        title: 'nano',
        series: [
          {
            name: 's',
            colour: '#123456',
            points: [
              { x: 0, y: 0, low: 0, high: 0.1 },
              { x: 64, y: 1, low: 0.9, high: 1 },
            ],
          },
        ],
      },
    ],
  }

  it('is the same text every time, with its text escaped and a point for each measurement', () => {
    const svg = lineChart(chart)
    expect(svg).toBe(lineChart(structuredClone(chart)))
    expect(svg).toContain('a &#60; b &#38; &#34;c&#34;')
    expect(svg.match(/<circle /g)).toHaveLength(2)
    expect(svg).not.toMatch(/NaN|undefined/)
  })

  it('refuses a point without a tick', () => {
    expect(() => lineChart({ ...chart, ticks: [{ x: 0, label: '0' }] })).toThrow('no tick at 64')
  })
})

describe("the README's table", () => {
  const model = {
    thinking: { accuracy: 0.9712, low: 0.9, high: 1, meanThinkingTokens: 137.6 },
    withoutThinking: { accuracy: 0, low: 0, high: 0.01 },
  }
  const section = accuracySection({ nano: model }, 1200, 3)

  it('has one row a model', () => {
    expect(section).toContain('| `nano` | 97.1% [90.0, 100.0] | 0.0% [0.0, 1.0] | 138 |')
    expect(section).toContain('1,200 held-out problems, 3 seeds')
  })

  it('replaces what stood between its markers, and nothing else', () => {
    const folder = mkdtempSync(join(tmpdir(), 'qwen3-readme-'))
    const file = join(folder, 'README.md')
    const old = accuracySection({ other: model }, 1, 1)
    writeFileSync(file, `before\n${old}\nafter`)
    updateReadme(file, section)
    expect(readFileSync(file, 'utf8')).toBe(`before\n${section}\nafter`)
    writeFileSync(file, 'no markers')
    expect(() => updateReadme(file, section)).toThrow('no place')
    rmSync(folder, { recursive: true })
  })
})
