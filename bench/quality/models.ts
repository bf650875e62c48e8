/** The distributions that `npm run bench:quality` compares: of this library in a format, of rounded weights, of the peer. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type LoadOptions, Qwen3 } from '../../lib/index'
import { type GgufFormat, writeGguf } from '../models/gguf'
import { roundedCheckpoint } from '../models/rounded'
import { checkpoint, ggufFile } from '../models/synthetic'
import type { OwnType } from '../models/tensor-tool'
import { repository } from '../support/environment'
import { inParallel } from '../support/pool'

export interface Text {
  ids: Int32Array
  /** The first position whose next token counts. */
  begin: number
}

/** Rows of logits, or of anything that differs from them by a constant: one for every position that counts, by text. */
export type Rows = Float32Array[][]

export const concurrency = 32

export const directoryOf = (name: string) => (name === 'dense' ? checkpoint('dense') : join(repository, 'models', name))

/** Loads, works, closes. */
export async function withModel<T>(
  directory: string,
  name: string,
  weights: LoadOptions['weights'],
  work: (model: Qwen3) => Promise<T>,
): Promise<T> {
  const contextLength = name === 'dense' ? 128 : 1024
  const model = await Qwen3.load(directory, { device: 'cpu', weights, contextLength, maxSequences: concurrency })
  try {
    return await work(model)
  } finally {
    await model.close()
  }
}

async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'qwen3-quality-'))
  try {
    return await work(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The model with its matrices rounded to a format, everything else in f32. */
export function withRounded<T>(
  name: string,
  format: GgufFormat | OwnType,
  work: (model: Qwen3) => Promise<T>,
): Promise<T> {
  return inFolder((folder) =>
    withModel(roundedCheckpoint(directoryOf(name), format, join(folder, 'model')), name, 'f32', work),
  )
}

/** Each position on its own: the prefix cache brings what comes before it. */
export function rowsOf(model: Qwen3, texts: Text[]): Promise<Rows> {
  return inParallel(texts, concurrency, async ({ ids, begin }) => {
    const rows: Float32Array[] = []
    for (let end = begin + 1; end < ids.length; end++) rows.push(await model.logits(ids.subarray(0, end)))
    return rows
  })
}

/** Through node-llama-cpp in a process of its own, with its defaults. */
export function peerRows(name: string, format: GgufFormat, texts: Text[]): Promise<Rows> {
  return inFolder(async (folder) => {
    let model = join(folder, 'model.gguf')
    if (name === 'dense') model = ggufFile('dense', format)
    else writeGguf(directoryOf(name), model, format)
    const { vocab_size: vocab } = JSON.parse(readFileSync(join(directoryOf(name), 'config.json'), 'utf8'))
    const out = join(folder, 'rows')
    const job = { model, vocab, out, threads: 2, texts: texts.map(({ ids, begin }) => ({ ids: [...ids], begin })) }
    execFileSync(process.execPath, [join(repository, 'bench/peers/distributions.mjs'), JSON.stringify(job)], {
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const bytes = readFileSync(out)
    const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)
    const row = (i: number) => values.subarray(i * vocab, (i + 1) * vocab)
    let next = 0
    const rows = texts.map(({ ids, begin }) => Array.from({ length: ids.length - 1 - begin }, () => row(next++)))
    if (next * vocab !== values.length) throw new Error(`${name} ${format}: ${values.length / vocab} rows of the peer`)
    return rows
  })
}
