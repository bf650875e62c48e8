/**
 * `npm run bench:cpu`: this library beside node-llama-cpp on the same synthetic weights, at equal bits a weight, with the same
 * threads, both through their public JavaScript APIs.
 *
 * Each measurement runs in a process of its own; the two take turns, and a ratio is that of two neighbours. The peer is
 * measured with flash attention and without, and the faster one counts. Floors are measured around every cell of the table.
 * Results are merged into bench/results/cpu-peers.json, so a long run may be cut into pieces.
 *
 * Options: --quick (two cells, two rounds), --shapes dense,moe, --formats bf16,int8,int4,int4-offset, --tasks a,b (names in
 * bench/cpu/cells.ts), --rounds N, --threads N, --seconds N (begin no cell after that), --missing (only cells without a
 * result of this commit), --report (no measurement: table and chart again)
 *
 * Needs the peer: npm ci --omit=optional --prefix bench/peers. Models take 18 GB in the system's temporary folder.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { compileLibrary } from '../test/helpers/library'
import { type Cell, ceiling, cellName, type Format, formats, type Roofs, type TaskName, tasks } from './cpu/cells'
import { writeReport } from './cpu/report'
import { compare, type Results, summarise } from './cpu/results'
import {
  measureBandwidth,
  measureLimits,
  measureOurs,
  measurePeer,
  oursBits,
  peerBits,
  type Setting,
  weightCache,
} from './cpu/run'
import { type ShapeName, shapes } from './models/synthetic'
import { environment, repository } from './support/environment'

const { values: flags } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    shapes: { type: 'string', default: 'dense,moe' },
    formats: { type: 'string', default: Object.keys(formats).join(',') },
    tasks: { type: 'string', default: Object.keys(tasks).join(',') },
    rounds: { type: 'string' },
    threads: { type: 'string', default: '2' },
    seconds: { type: 'string' },
    missing: { type: 'boolean', default: false },
    report: { type: 'boolean', default: false },
    out: { type: 'string', default: join(repository, 'bench/results') },
  },
})

const file = join(flags.out, 'cpu-peers.json')

function load(): Results {
  const known = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Results) : undefined
  return { flash: {}, cells: {}, ...known, peer: peerVersion(), threads: Number(flags.threads) }
}

function peerVersion(): string {
  const folder = join(repository, 'bench/peers/node_modules/node-llama-cpp')
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  const { tag } = JSON.parse(readFileSync(join(folder, 'llama/llama.cpp.info.json'), 'utf8'))
  return `node-llama-cpp ${version} (llama.cpp ${tag})`
}

function cells(): Cell[] {
  if (flags.quick)
    return (['prefill512', 'decode512'] as const).map((task) => ({ shape: 'dense', format: 'int8', task }))
  const pick = <T extends string>(text: string, all: object): T[] =>
    text.split(',').map((name) => {
      if (!Object.hasOwn(all, name)) throw new Error(`no ${name}; there are ${Object.keys(all).join(', ')}`)
      return name as T
    })
  const all: Cell[] = []
  for (const task of pick<TaskName>(flags.tasks, tasks))
    for (const shape of pick<ShapeName>(flags.shapes, shapes))
      for (const format of pick<Format>(flags.formats, formats)) all.push({ shape, format, task })
  return all
}

/** Is the peer faster with flash attention? Measured on the first format of a shape and task. */
function flashIsFaster(cell: Cell, setting: Setting, results: Results): boolean {
  const { shape, task } = cell
  if (tasks[task].kind === 'load') return true
  const name = `${shape}/${task}`
  results.flash[name] ??= {
    on: Math.max(...measurePeer(cell, setting, true).values),
    off: Math.max(...measurePeer(cell, setting, false).values),
  }
  return results.flash[name].on >= results.flash[name].off
}

function measure(cell: Cell, setting: Setting, peaks: Roofs, rounds: number, results: Results) {
  const flashAttention = flashIsFaster(cell, setting, results)
  const before = measureBandwidth(setting.threads)
  // Loading: once from the checkpoint, quantising it; the rounds find the packed weights in their cache, as the peer
  // finds its file.
  const isLoad = tasks[cell.task].kind === 'load'
  const options = isLoad ? { weightCache: weightCache() } : {}
  const cold = isLoad ? measureOurs(cell, setting) : undefined
  if (isLoad) measureOurs(cell, setting, options)
  const pairs = Array.from({ length: rounds }, () => ({
    ours: measureOurs(cell, setting, options),
    peer: measurePeer(cell, setting, flashAttention),
  }))
  // A shared host's bandwidth swings; the best of what was seen around the cell makes the floor.
  const readSamples = [before, measureBandwidth(setting.threads)]
  const roofs = { ...peaks, readGigabytesPerSecond: Math.max(...readSamples), readSamples }
  const bits = { ours: oursBits(cell.format), peer: peerBits(cell.shape, cell.format) }
  const ceilings = { ours: ceiling(cell, bits.ours, roofs), peer: ceiling(cell, bits.peer, roofs) }
  return compare(cell, summarise(pairs), { roofs, bits, ceilings, flashAttention, cold })
}

function main(): void {
  const results = load()
  if (flags.report) {
    writeReport(results, flags.out)
    return
  }
  const begin = performance.now()
  // QWEN3_LIBRARY: a compiled lib/index.js to measure in place of this tree's.
  const given = process.env.QWEN3_LIBRARY
  const library = given ? { index: given, remove: () => {} } : compileLibrary()
  try {
    const threads = Number(flags.threads)
    const peaks = measureLimits(threads)
    const { date, ...where } = environment()
    results.limits = { date, ...peaks }
    const rounds = Number(flags.rounds ?? (flags.quick ? 2 : 3))
    for (const cell of cells()) {
      const name = cellName(cell)
      if (flags.missing && results.cells[name]?.commit === where.commit) continue
      if (flags.seconds && performance.now() - begin > 1000 * Number(flags.seconds)) break
      try {
        const result = measure(cell, { threads, library: library.index }, peaks, rounds, results)
        console.log(result.text)
        results.cells[name] = { date: new Date().toISOString(), ...where, rounds, ...result.figures }
      } catch (error) {
        const { stderr, message } = error as Error & { stderr?: string }
        console.error(`${name}: failed\n${stderr?.trim().split('\n').slice(-12).join('\n') || message}`)
        process.exitCode = 1
      }
      mkdirSync(flags.out, { recursive: true })
      writeFileSync(file, `${JSON.stringify(results, null, 1)}\n`)
    }
  } finally {
    library.remove()
  }
  writeReport(results, flags.out)
}

main()
