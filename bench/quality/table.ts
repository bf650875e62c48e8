/** Formats of `npm run bench:quality`, and its table in docs/numerics.md. */
import { join } from 'node:path'
import { type Format, bitsOf as ownBits } from '../cpu/cells'
import type { GgufFormat } from '../models/gguf'
import { repository } from '../support/environment'
import { replaceSection } from '../support/readme'
import type { Share } from '../support/statistics'
import type { DivergenceSummary } from './divergence'

export interface QualityFormat {
  name: string
  /** A format of the peer. */
  peer?: GgufFormat
}

/** In the order of the table: ours, then the peer's of as many bits. */
export const qualityFormats: readonly QualityFormat[] = [
  { name: 'bf16' },
  { name: 'int8' },
  { name: 'Q8_0', peer: 'Q8_0' },
  { name: 'int4-offset' },
  { name: 'Q4_K_M', peer: 'Q4_K_M' },
  { name: 'int4' },
  { name: 'Q4_0', peer: 'Q4_0' },
]

export const bitsOf = (name: string): number => ownBits[name as Format]

export interface QualityResult {
  date: string
  /** A weight, scales included. */
  bits: number
  /** The weights rounded, everything else f32. */
  alone?: DivergenceSummary
  /** In the engine that has the format. */
  running: DivergenceSummary
  /** Of this library in the format; for a format of the peer, of its rounded weights in f32. */
  accuracy?: Share
}

export interface QualityResults {
  /** That the accuracy was measured on. */
  problems?: number
  models: Record<string, Record<string, QualityResult>>
}

export const markers = {
  begin: '<!-- quality: written by npm run bench:quality -->',
  end: '<!-- /quality -->',
}

const titles: Record<string, string> = {
  nano: '`nano`',
  'nano-moe': '`nano-moe`',
  dense: 'synthetic 0.6B',
}

export function table({ models, problems }: QualityResults): string {
  const lines: string[] = [markers.begin]
  for (const [model, title] of Object.entries(titles)) {
    const rows = models[model]
    if (!rows) continue
    const all = Object.values(rows)
    const graded = all.some(({ accuracy }) => accuracy)
    const head = [
      `${title}, ${all[0]!.running.positions.toLocaleString('en')} positions`,
      'bits a weight',
      'KL, weights alone',
      'KL, running',
      'of which 99% below',
      'same top token',
      ...(graded ? [`right answers of ${problems}`] : []),
    ]
    lines.push(`| ${head.join(' | ')} |`, `|${' --- |'.repeat(head.length)}`)
    for (const { name, peer } of qualityFormats) {
      const row = rows[name]
      if (row) lines.push(`| ${[peer ? name : `**${name}**`, ...fields(row)].join(' | ')} |`)
    }
    lines.push('')
  }
  return [...lines.slice(0, -1), markers.end].join('\n')
}

function fields({ bits, alone, running, accuracy }: QualityResult): string[] {
  const small = (value: number) => value.toExponential(1)
  const percent = (value: number) => `${(100 * value).toFixed(1)}%`
  return [
    bits.toFixed(2),
    alone ? small(alone.kl) : '0',
    small(running.kl),
    small(running.klP99),
    `${(100 * running.top1).toFixed(2)}%`,
    ...(accuracy ? [`${percent(accuracy.accuracy)} [${percent(accuracy.low)}, ${percent(accuracy.high)}]`] : []),
  ]
}

export function writeTable(results: QualityResults): void {
  const section = table(results)
  if (!replaceSection(join(repository, 'docs/numerics.md'), markers, section))
    console.log(`docs/numerics.md has no place for this:\n${section}`)
}
