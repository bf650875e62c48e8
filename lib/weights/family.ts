import type { NativeConfig } from '../native'

interface Row {
  layers: number
  hidden: number
  qHeads: number
  kvHeads: number
  /** Dense feed-forward width; for MoE rows, the width of one expert. */
  ffn: number
  experts?: number
  topK?: number
  tied?: boolean
  nativeWindow?: number
  /** The tokenizer's own vocabulary instead of the family's 151,936 rows. */
  smallVocab?: boolean
}

/** Shapes of the published family, and two small ones for tests; `random:<row>` makes a synthetic model of a row. */
const ROWS: Readonly<Record<string, Row>> = {
  'qwen3-0.6b': { layers: 28, hidden: 1024, qHeads: 16, kvHeads: 8, ffn: 3072, tied: true },
  'qwen3-1.7b': { layers: 28, hidden: 2048, qHeads: 16, kvHeads: 8, ffn: 6144, tied: true },
  'qwen3-4b': { layers: 36, hidden: 2560, qHeads: 32, kvHeads: 8, ffn: 9728, tied: true },
  'qwen3-8b': { layers: 36, hidden: 4096, qHeads: 32, kvHeads: 8, ffn: 12288 },
  'qwen3-14b': { layers: 40, hidden: 5120, qHeads: 40, kvHeads: 8, ffn: 17408 },
  'qwen3-32b': { layers: 64, hidden: 5120, qHeads: 64, kvHeads: 8, ffn: 25600 },
  'qwen3-30b-a3b': { layers: 48, hidden: 2048, qHeads: 32, kvHeads: 4, ffn: 768, experts: 128, topK: 8 },
  'qwen3-235b-a22b': { layers: 94, hidden: 4096, qHeads: 64, kvHeads: 4, ffn: 1536, experts: 128, topK: 8 },
  tiny: { layers: 2, hidden: 256, qHeads: 4, kvHeads: 2, ffn: 384, tied: true, nativeWindow: 2048, smallVocab: true },
  'tiny-moe': {
    layers: 2,
    hidden: 256,
    qHeads: 4,
    kvHeads: 2,
    ffn: 128,
    experts: 8,
    topK: 2,
    nativeWindow: 2048,
    smallVocab: true,
  },
}

/** Rows of the embedding matrix in the published models; 151,669 of them are tokens. */
const FAMILY_VOCAB = 151_936

export const familyRows: readonly string[] = Object.keys(ROWS)

/** The configuration of a row, undefined when there is no such row. `smallVocab`: vocabulary size of the test rows. */
export function familyConfig(name: string, smallVocab: number): NativeConfig | undefined {
  if (!Object.hasOwn(ROWS, name)) return undefined
  const row = ROWS[name]!
  const moe = row.experts !== undefined
  return {
    layers: row.layers,
    hidden: row.hidden,
    qHeads: row.qHeads,
    kvHeads: row.kvHeads,
    headDim: 128,
    ffn: moe ? 0 : row.ffn,
    vocab: row.smallVocab ? smallVocab : FAMILY_VOCAB,
    rmsNormEps: 1e-6,
    ropeTheta: 1_000_000,
    tiedEmbeddings: row.tied ?? false,
    nativeWindow: row.nativeWindow ?? 32_768,
    experts: row.experts ?? 0,
    topKExperts: row.topK ?? 0,
    moeFfn: moe ? row.ffn : 0,
    normTopkProb: moe,
    moeLayers: new Uint8Array(row.layers).fill(moe ? 1 : 0),
  }
}
