/** Tables of the README and of docs/ are written by the benchmarks that measured them, each between two markers. */
import { readFileSync, writeFileSync } from 'node:fs'
import type { Share } from './statistics'

export interface Accuracy {
  thinking: Share & { meanThinkingTokens: number }
  withoutThinking: Share
}

const begin = '<!-- accuracy: written by npm run bench:budget -->'
const end = '<!-- /accuracy -->'

/** `97.1% [96.2, 97.8]` */
export function percent({ accuracy, low, high }: Share): string {
  const number = (value: number) => (100 * value).toFixed(1)
  return `${number(accuracy)}% [${number(low)}, ${number(high)}]`
}

export function accuracySection(models: Record<string, Accuracy>, problems: number, seeds: number): string {
  const rows = Object.entries(models).map(([name, { thinking, withoutThinking }]) => {
    const tokens = thinking.meanThinkingTokens.toFixed(0)
    return `| \`${name}\` | ${percent(thinking)} | ${percent(withoutThinking)} | ${tokens} |`
  })
  return [
    begin,
    `Right answers on ${problems.toLocaleString('en')} held-out problems, ${seeds} seeds, 95% intervals (\`npm run bench:budget\`):`,
    '',
    '| model | thinking | without thinking | thinking tokens |',
    '| --- | --- | --- | --- |',
    ...rows,
    '',
    '![Accuracy against the thinking budget](bench/results/budget.svg)',
    end,
  ].join('\n')
}

/** Replaces what stands between the markers of the accuracy table. */
export function updateReadme(file: string, section: string): void {
  if (!replaceSection(file, { begin, end }, section)) throw new Error(`${file} has no place for the accuracy table`)
}

/** Replaces what stands between two markers, and them; false when the file has no such place. */
export function replaceSection(file: string, markers: { begin: string; end: string }, section: string): boolean {
  const text = readFileSync(file, 'utf8')
  const from = text.indexOf(markers.begin)
  const to = text.indexOf(markers.end)
  if (from < 0 || to < from) return false
  writeFileSync(file, text.slice(0, from) + section + text.slice(to + markers.end.length))
  return true
}
