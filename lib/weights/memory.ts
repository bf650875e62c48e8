import { Qwen3Error, received } from '../errors'
import type { NativeKvFormat, NativeWeightFormat, NativeYarn } from '../native'
import type { ModelDescription } from './describe'
import { shapeGroups } from './tensors'

export interface MemoryEstimate {
  weightBytes: number
  kvBytesPerToken: number
  /** For `sequences` sequences of `contextLength` tokens, in whole blocks. */
  kvCacheBytes: number
  totalBytes: number
}

export interface MemoryOptions {
  contextLength: number
  weights: NativeWeightFormat
  /** Default: as `weights`. */
  embeddingWeights?: NativeWeightFormat
  headWeights?: NativeWeightFormat
  kvCache: NativeKvFormat
  /** Sequences of full length that are kept at once; default 1. */
  sequences?: number
}

/** Bytes of a weight, its share of the group's scale and offset included. */
const BYTES: Readonly<Record<NativeWeightFormat, number>> = {
  f32: 4,
  bf16: 2,
  int8: 1 + 2 / 64,
  int4: 0.5 + 2 / 32,
  'int4-offset': 0.5 + 3 / 32,
}

/** Tokens of one block of the paged cache. */
const BLOCK = 64

/**
 * What a model takes in memory, from its description alone: every matrix in the chosen format, norms in f32, and keys and
 * values of every layer, [2, n_kv_heads, head_dim] a token. Packing may add padding of a few percent on top.
 */
export function estimateMemory(description: Pick<ModelDescription, 'config'>, options: MemoryOptions): MemoryEstimate {
  const { config } = description
  const { contextLength, sequences = 1 } = options
  for (const [name, value] of Object.entries({ contextLength, sequences })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new Qwen3Error(
        'INVALID_ARGUMENT',
        `${name}: expected a positive whole number, received ${received(value)}.`,
        { subject: name },
      )
    }
  }
  const { weights, embeddingWeights = weights, headWeights = weights } = options
  // The format of each kind; `tied`: the head's own copy of the table, none where one serves both.
  const bytes = {
    linear: BYTES[weights],
    embedding: BYTES[embeddingWeights],
    head: BYTES[headWeights],
    router: weights === 'f32' ? 4 : 2,
    vector: 4,
  }
  let weightBytes = 0
  for (const { shape, count, kind } of shapeGroups(config)) {
    weightBytes += Math.ceil(count * shape.reduce((a, b) => a * b, 1) * bytes[kind])
  }
  if (config.tiedEmbeddings && headWeights !== embeddingWeights) {
    weightBytes += Math.ceil(config.vocab * config.hidden * bytes.head)
  }
  const kvBytesPerToken = 2 * config.layers * config.kvHeads * kvRowBytes(config.headDim, options.kvCache)
  const kvCacheBytes = Math.ceil(contextLength / BLOCK) * BLOCK * sequences * kvBytesPerToken
  return { weightBytes, kvBytesPerToken, kvCacheBytes, totalBytes: weightBytes + kvCacheBytes }
}

/** One position of one head, keys or values; an int8 row has a scale. */
function kvRowBytes(headDim: number, format: NativeKvFormat): number {
  if (format === 'int8') return headDim + 4
  return headDim * (format === 'f32' ? 4 : 2)
}

/** Number of parameters; tied embeddings count once. */
export function countParameters(config: ModelDescription['config']): number {
  return shapeGroups(config).reduce((sum, { shape, count }) => sum + count * shape.reduce((a, b) => a * b, 1), 0)
}

/**
 * The YaRN scaling for a context: none when `rope` is `'none'` or nothing has to be stretched. The factor is the explicit
 * one; else, under `'static'`, the config's own (so that results equal other engines'); else contextLength / native window.
 */
export function yarnFor(
  description: Pick<ModelDescription, 'config' | 'yarn'>,
  options: { contextLength: number; yarnFactor?: number; rope: 'auto' | 'static' | 'none' },
): NativeYarn | undefined {
  if (options.rope === 'none') return undefined
  const window = description.config.nativeWindow
  const needed = Math.max(1, options.contextLength / window)
  const own = options.rope === 'static' ? description.yarn?.factor : undefined
  const factor = options.yarnFactor ?? Math.max(own ?? 1, needed)
  if (factor === 1) return undefined
  return {
    betaFast: 32,
    betaSlow: 1,
    ...description.yarn,
    originalMaxPositionEmbeddings: window,
    factor,
  }
}
