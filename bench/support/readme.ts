/** The README's accuracy table is written by the benchmark that measured it, between two markers. */
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

/** Replaces what stands between the markers. */
export function updateReadme(file: string, section: string): void {
  const text = readFileSync(file, 'utf8')
  const from = text.indexOf(begin)
  const to = text.indexOf(end)
  if (from < 0 || to < from) throw new Error(`${file} has no place for the accuracy table`)
  writeFileSync(file, text.slice(0, from) + section + text.slice(to + end.length))
}
