/** Runs one measurement in a process of its own. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ggufSize } from '../models/gguf'
import { checkpoint, ggufFile, modelsFolder, type ShapeName, shapes } from '../models/synthetic'
import { benchProgram } from '../models/tensor-tool'
import { repository } from '../support/environment'
import { bitsOf, type Cell, cacheBytesPerToken, formats, type Roofs, tasks } from './cells'

export interface Measured {
  /** Tokens per second; for `load`: milliseconds to the first token of a short prompt after loading. */
  values: number[]
  loadMs: number
  /** Bytes. */
  memory: { peak: number; anonymous: number; mapped: number }
  processorMs: number
  /** Processors that other processes kept busy meanwhile. */
  disturbed: number
}

export interface Setting {
  threads: number
  /** lib/index.js */
  library: string
}

const TIMEOUT_MS = 280_000
/** Above that share of one processor a measurement is made again, so often at most; the least disturbed one counts. */
const DISTURBED = 0.15
const ATTEMPTS = 2

function child(script: string, job: object, env: Record<string, string>): Measured {
  let best: Measured | undefined
  for (let i = 0; i < ATTEMPTS && !(best && best.disturbed <= DISTURBED); i++) {
    const one = attempt(script, job, env)
    if (!best || one.disturbed < best.disturbed) best = one
  }
  return best!
}

function attempt(script: string, job: object, env: Record<string, string>): Measured {
  const begin = performance.now()
  const busy = busyMs()
  const output = execFileSync(process.execPath, [join(repository, script), JSON.stringify(job)], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: TIMEOUT_MS,
    maxBuffer: 1 << 26,
  })
  const result = JSON.parse(output.trim().split('\n').at(-1)!) as Measured
  const others = busyMs() - busy - result.processorMs
  return { ...result, disturbed: Math.max(0, others / (performance.now() - begin)) }
}

/** Milliseconds that the machine's processors were busy since it started, stolen time included; ticks are of 10 ms. */
function busyMs(): number {
  const [user, nice, system, , , interrupts, soft, stolen] = readFileSync('/proc/stat', 'utf8')
    .slice('cpu'.length, 200)
    .trim()
    .split(/\s+/)
    .map(Number)
  return 10 * (user! + nice! + system! + interrupts! + soft! + stolen!)
}

/** Where this library keeps its packed weights between loads: the peer's file is packed as well. */
export const weightCache = () => join(modelsFolder(), 'packed')

export function measureOurs(cell: Cell, { threads, library }: Setting, options: object = {}): Measured {
  const job = {
    ...tasks[cell.task],
    model: checkpoint(cell.shape),
    threads,
    vocab: shapes[cell.shape].vocab,
    options: { weights: cell.format, ...options },
  }
  return child('bench/cpu/ours.mjs', job, {
    QWEN3_LIBRARY: library,
    QWEN3_BLOCK_BYTES: String(64 * cacheBytesPerToken(cell.shape)),
  })
}

export function measurePeer(cell: Cell, { threads }: Setting, flashAttention: boolean): Measured {
  const states = join(modelsFolder(), 'states')
  mkdirSync(states, { recursive: true })
  const { kind, context, batch } = tasks[cell.task]
  const stateFile = join(states, `${cell.shape}-${context}-${batch}-${flashAttention ? 'flash' : 'plain'}`)
  const job = {
    ...tasks[cell.task],
    model: ggufFile(cell.shape, formats[cell.format]),
    threads,
    vocab: shapes[cell.shape].vocab,
    options: { flashAttention, ...(kind === 'decode' && { stateFile }) },
  }
  return child('bench/peers/llama.mjs', job, {})
}

/** Bits a weight of the peer's file. */
export function peerBits(shape: ShapeName, format: Cell['format']): number {
  const { bytes, weights } = ggufSize(checkpoint(shape), formats[format])
  return (8 * bytes) / weights
}

export const oursBits = (format: Cell['format']): number => bitsOf[format]

/** Peak rates take a second, and do not change while a benchmark runs. */
export function measureLimits(threads: number): Roofs & Record<string, unknown> {
  return JSON.parse(execFileSync(benchProgram('limits_tool'), ['--threads', String(threads)], { encoding: 'utf8' }))
}

/** The bandwidth does change, with what else the host runs. */
export function measureBandwidth(threads: number): number {
  const flags = ['--threads', String(threads), '--one-count', '--read-only', '--rounds', '6']
  const output = execFileSync(benchProgram('limits_tool'), flags, { encoding: 'utf8' })
  return (JSON.parse(output) as Roofs).readGigabytesPerSecond
}
