/**
 * What the addon costs the process it lives in, and what batching brings: one libuv thread, eight streams of nano, another
 * load in between.
 *
 *     npx tsx bench/node.ts
 *
 * readFile p99 (to be below 5 ms), event-loop delay p99, tokens/s of eight streams against one (to be at least 2.5 times),
 * two busy models together against one (to be at least 0.9 times), processor time of JavaScript's thread per token (to be
 * at most 20 us). Median of fifteen runs, each in a process of its own.
 * Writes bench/results/node.json.
 */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import { compileLibrary, fixture } from '../test/helpers/library'
import { environment } from './support/environment'

const RUNS = 15

const library = compileLibrary()
const env = { ...process.env, QWEN3_LIBRARY: library.index, UV_THREADPOOL_SIZE: '1' }
const runs: Record<string, number>[] = []
try {
  for (let i = 0; i < RUNS; i++) {
    const output = execFileSync(process.execPath, [fixture('threadpool.cjs')], { env, encoding: 'utf8' })
    const figures = JSON.parse(output) as Record<string, number>
    runs.push({
      ...figures,
      speedup: figures.tokensPerSecond! / figures.oneStreamTokensPerSecond!,
      twoModelsRatio: figures.twoModelsTokensPerSecond! / figures.oneStreamTokensPerSecond!,
    })
  }
} finally {
  library.remove()
}
const median = (name: string) => runs.map((run) => run[name]!).toSorted((a, b) => a - b)[Math.floor(RUNS / 2)]!
const names = [
  'readP50',
  'readP99',
  'readMost',
  'loopP99',
  'tokensPerSecond',
  'oneStreamTokensPerSecond',
  'speedup',
  'twoModelsTokensPerSecond',
  'twoModelsRatio',
  'usPerToken',
  'cpuUsPerToken',
]
const result = {
  ...environment(),
  // A busy machine shows here: figures with a load above the number of threads mean little.
  loadAverage: loadavg()[0],
  runs: RUNS,
  ...Object.fromEntries(names.map((name) => [name, Number(median(name).toPrecision(4))])),
}
const folder = join(__dirname, 'results')
mkdirSync(folder, { recursive: true })
writeFileSync(join(folder, 'node.json'), `${JSON.stringify(result, null, 2)}\n`)
console.log(result)
